"""Files to columns: CSV, Parquet and NPZ, whole or in blocks, read as what their text means.

`reader` is the way in. The files of a table (`folder`) have columns (`parts`) of text or of types
(`csv_file` by `dialect` and `quotes`; `parquet_file`; `arrow`). One pass over them (`scan`) looks
at each column (`looks`), whose text may have one of several `forms`; `decide` settles which, in
view of the other columns. `indexes` finds the columns that only number the rows.
"""
