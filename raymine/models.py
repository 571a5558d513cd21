"""Finding a model's files: a local folder, a URL, or a name on the hub.

Every worker finds them for itself, so nodes that share nothing but a bucket can load a model that lies in it.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from raymine import storage
from raymine.errors import ConfigError
from raymine.fingerprint import model_files


def local_model(name: str, revision: str | None = None) -> str:
    """The local folder that holds a model's files, downloaded if need be.

    Args:
        name: local folder, URL of a folder, or hub name.
        revision: of a hub model.

    Raises:
        ConfigError: there is no such model.
    """
    if storage.is_local(name) and storage.local_path(name).is_dir():
        return str(storage.local_path(name))
    if storage.is_url(name):
        return _downloaded(name)
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(name, revision=revision))
    except Exception as error:
        raise ConfigError(
            f"model {name!r} cannot be loaded",
            got=f"no such folder, and from the hub: {type(error).__name__}: {str(error).splitlines()[0]}",
            expected="a folder, a URL or a hub name of a saved model",
            fix="check the spelling, or give the path of a local folder",
        ) from error


def _downloaded(url: str) -> str:
    """A folder with the model at `url`, kept in the temporary folder under a name made of the files' content tags.

    A trainer's checkpoint holds its optimizer too, twice the size of the weights: only what is of the model is fetched.
    """
    names = model_files(url)
    if not names:
        raise ConfigError(f"model {url!r} cannot be loaded", got="no files there", expected="a saved model's folder")
    fs, inner = storage.filesystem(url)
    known = "|".join(f"{name}:{fs.info(storage.join(inner, name)).get('ETag', '')}" for name in names)
    name = hashlib.sha256(f"{url}|{known}".encode()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / "raymine-models" / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            for each in names:
                storage.copy_file(storage.join(url, each), storage.join(folder, "model", each))
            try:
                (Path(folder) / "model").rename(target)
            except OSError:
                if not target.exists():  # another worker of this machine was first: its copy is the same
                    raise
    return str(target)
