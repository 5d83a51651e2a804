"""What a user of Keras would write: python script_keras.py TABLE.csv TARGET EPOCHS."""

import sys

import keras
import numpy as np

path, target, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(path) as file:
    place = file.readline().strip().split(",").index(target)
    table = np.loadtxt(file, delimiter=",", dtype=np.float32)
y = table[:, place].astype(int)
x = np.delete(table, place, axis=1)
order = np.random.default_rng(0).permutation(len(x))
held, kept = order[: len(x) // 5], order[len(x) // 5 :]
normalize = keras.layers.Normalization()
normalize.adapt(x[kept])
model = keras.Sequential(
    [normalize, keras.layers.Dense(128, "relu"), keras.layers.Dense(int(y.max()) + 1)]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, metrics=["accuracy"], jit_compile=True)
model.fit(x[kept], y[kept], batch_size=32, epochs=epochs, verbose=0)
print("validation", model.evaluate(x[held], y[held], verbose=0))
model.save("model.keras")
