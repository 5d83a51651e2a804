"""Train any loss fast, large and safely; its modules are the API."""
