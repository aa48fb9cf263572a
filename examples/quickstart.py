"""From a folder of pictures to a page that shows its clusters.

    python examples/quickstart.py [FOLDER [OUT]]

Open it as a notebook in VS Code, Jupyter (jupytext) or Spyder: every `# %%` begins a cell.
"""

# %% Where the pictures are, and where the results go
import sys
from pathlib import Path

pictures = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "clipart")
out = Path(sys.argv[2] if len(sys.argv) > 2 else "quickstart-out")

# %% Embed: pictures → vectors, kept as Parquet; run it again and it goes on where it stopped
from imgclust import embed, load_encoder, read_embeddings

encoder = load_encoder("mini")  # or "ViT-B-32/laion2b_s34b_b79k": CLIP, downloaded once
embed([pictures], out / "embeddings", encoder, progress=False)
embeddings = read_embeddings(out / "embeddings")
print(f"{len(embeddings)} pictures, {embeddings.vectors.shape[1]} numbers each")

# %% Fit: duplicates out, UMAP, HDBSCAN, a check on pictures held out, names; then freeze
from imgclust import fit

result = fit(embeddings)  # clusters of CLIP get names with vocabulary=encoder.vocabulary()
result.model.save(out / "model")
other = result.figures["test"]["other"]
print(f"{len(result.model.clusters)} clusters; {other:.0%} of the held-out pictures are in none of them")

# %% Look: one offline page
from imgclust import write_report

print("open", write_report(out / "model", out / "report.html", images=out / "embeddings"))

# %% Predict: the same picture always gets the same cluster
from imgclust import ClusterModel

model = ClusterModel.load(out / "model")
prediction = model.predict(embeddings.vectors[:5])
for i, label in enumerate(prediction.labels):
    print(f"{embeddings.ids[i]}: cluster {label} ({prediction.probabilities[i]:.2f})")
