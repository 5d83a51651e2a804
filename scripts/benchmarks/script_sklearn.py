"""What a user of scikit-learn would write: python script_sklearn.py TABLE.csv TARGET EPOCHS."""

import sys
import warnings

import joblib
import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

path, target, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(path) as file:
    place = file.readline().strip().split(",").index(target)
    table = np.loadtxt(file, delimiter=",", dtype=np.float32)
y = table[:, place].astype(int)
x = np.delete(table, place, axis=1)
x, x_held, y, y_held = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
scaler = StandardScaler().fit(x)
x, x_held = scaler.transform(x), scaler.transform(x_held)
model = MLPClassifier(
    (128,), batch_size=32, alpha=0, max_iter=epochs, tol=0, n_iter_no_change=epochs
)
warnings.simplefilter("ignore")  # that it has not converged
model.fit(x, y)
print("train", model.score(x, y), "validation", model.score(x_held, y_held))
joblib.dump((scaler, model), "model.joblib")
