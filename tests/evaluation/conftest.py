"""Fixtures of the tests of evaluation."""

import json

import orjson
import pytest

from eql_d2.evaluation.evaluate_files import evaluate_files
from eql_d2.evaluation.results.ensemble import merge_results, read_images_and_categories
from eql_d2.evaluation.results.ensemble_rules import Rules, make_members
from tests.evaluation.results.small_ensembles import ANT, BEE, COW


@pytest.fixture
def run(tmp_path):
    """Writes content and results to files, and evaluates them."""

    def write_and_evaluate(content, results, tasks=None, **options):
        for name, data in (("a.json", content), ("r.json", results)):
            text = data if isinstance(data, (str, bytes)) else json.dumps(data)
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return evaluate_files(tmp_path / "a.json", tmp_path / "r.json", tasks, **options)

    return write_and_evaluate


@pytest.fixture
def merge(tmp_path):
    """Writes each model's results to a file, and gives back the merged ones."""
    images = [{"id": i, "height": 100, "width": 100} for i in (1, 2)]
    names = {ANT: ("ant", "f"), BEE: ("bee", "r"), COW: ("cow", "r")}
    categories = [{"id": i, "name": name, "frequency": letter} for i, (name, letter) in names.items()]
    (tmp_path / "a.json").write_bytes(orjson.dumps({"images": images, "categories": categories}))

    def run(*models, weights=None, categories_of=(), **rules):
        files = []
        for number, results in enumerate(models, start=1):
            files.append(str(tmp_path / f"{number}.json"))
            text = results if isinstance(results, str) else json.dumps(results)
            (tmp_path / f"{number}.json").write_text(text)
        ground_truth = read_images_and_categories(tmp_path / "a.json")
        members = make_members(files, weights, categories_of, ground_truth)
        count = merge_results(ground_truth, members, tmp_path / "new" / "merged.json", Rules(**rules))
        merged = orjson.loads((tmp_path / "new" / "merged.json").read_bytes())
        assert len(merged) == count
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["merged.json"]
        return merged

    return run
