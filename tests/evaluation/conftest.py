"""Fixtures of the tests of evaluation."""

import json

import pytest

from eql_d2.evaluation.evaluate_files import evaluate_files


@pytest.fixture
def run(tmp_path):
    """Writes content and results to files, and evaluates them."""

    def write_and_evaluate(content, results, tasks=None, **options):
        for name, data in (("a.json", content), ("r.json", results)):
            text = data if isinstance(data, (str, bytes)) else json.dumps(data)
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return evaluate_files(tmp_path / "a.json", tmp_path / "r.json", tasks, **options)

    return write_and_evaluate
