"""Fixtures that several rooms share: folders of tiny real models, built once per session."""

from __future__ import annotations

import atexit
import os
import sys

import hypothesis
import pytest
import tiny_models

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
hypothesis.settings.register_profile("raymine", deadline=None)  # on a machine that is busy any example may take long
hypothesis.settings.load_profile("raymine")
SESSION = pytest.StashKey[pytest.Session]()


@pytest.fixture(scope="session")
def static_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a 16-dimensional StaticEmbedding SentenceTransformer (cosine by default)."""
    return tiny_models.save_static(str(tmp_path_factory.mktemp("static")))


@pytest.fixture(scope="session")
def bert_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a 32-dimensional BERT SentenceTransformer: dot similarity, prompts `query`, `document`, `plain`."""
    prompts = {"query": "search query: ", "document": "search document: ", "plain": ""}
    return tiny_models.save_bert(str(tmp_path_factory.mktemp("bert")), similarity="dot", prompts=prompts)


@pytest.fixture(scope="session")
def cross_encoder_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a BERT CrossEncoder with one label."""
    return tiny_models.save_cross_encoder(str(tmp_path_factory.mktemp("cross-encoder")))


def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.stash[SESSION] = session


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends without taking libraries apart, as the command line does.

    A whole run ended in a segmentation fault once, with every test passed. Threads of Ray outlive ray.shutdown; whether
    it was one of them could not be told.
    """
    session = config.stash.get(SESSION, None)
    if session is None:
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(session.exitstatus))
