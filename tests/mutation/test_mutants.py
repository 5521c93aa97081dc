"""The mutants of ``make mutants``: what is changed, what is left alone, and the list of those that change nothing."""

import ast

from tests.mutation.__main__ import AREAS, all_mutants, choose, equivalent, past, waves_of_tests
from tests.mutation.mutants import mutants_of
from tests.mutation.running import ROOT


def changes(source: str) -> set[str]:
    """What the lines that change become."""
    return {mutant.after for mutant in mutants_of("a.py", source.encode())}


def test_conditions_and_comparisons():
    assert changes("if a < b and not c:\n    f()\n") == {
        "if (not (a < b and (not c))):",
        "if (a < b or not c):",
        "if (a <= b) and not c:",
        "if a < b and (c):",
        "pass",
    }


def test_values_and_calls():
    assert changes("x = f(a, b.clamp(min=1), dim=0)") == {
        "x = (f(b.clamp(min=1), a, dim=0))",
        "x = (f(a, b.clamp(min=1)))",
        "x = f(a, (b.clamp()), dim=0)",
        "x = f(a, (b), dim=0)",
        "x = f(a, b.clamp(min=2), dim=0)",
        "x = f(a, b.clamp(min=1), dim=1)",
    }
    assert changes("y = max(a, 0.5)") == {"y = (a)", "y = (0.5)", "y = max(a, (1.0))"}


def test_statements():
    assert changes("with lock:\n    total += 1\n") == {"if True:", "pass", "total -= 1", "total += 2"}
    assert changes("def f():\n    if a:\n        raise E(1 < 2)\n    return -a\n") == {
        "if (not (a)):",
        "pass",
        "return (a)",
    }


def test_what_is_left_alone():
    assert not changes(
        'def f(a: int | None = None) -> "x | y":\n    """Text 1 < 2."""\n'
        '    logger.info("%s", 3)\n    return f"{a + 1}"\n'
    )


def test_a_mutant_of_several_lines_in_a_file_that_is_not_ascii():
    source = 'note = "λ → 1"\nx = f(\n    a,\n    b + 1,\n)\n'
    mutants = {mutant.after: mutant for mutant in mutants_of("a.py", source.encode())}
    assert set(mutants) == {"x = (f(b + 1, a))", "(b - 1),", "b + 2,"}
    assert mutants["(b - 1),"].before == "b + 1,"
    assert mutants["x = (f(b + 1, a))"].before == "x = f( a, b + 1, )"
    changed = mutants["b + 2,"].apply(source.encode()).decode()
    assert changed == source.replace("b + 1", "b + 2")


def test_every_area_has_mutants_and_each_is_another_program():
    for area in AREAS:
        mutants = all_mutants([area])
        assert len(mutants) > 20, area
        for mutant in mutants[::50]:
            source = (ROOT / mutant.path).read_bytes()
            assert ast.dump(ast.parse(mutant.apply(source))) != ast.dump(ast.parse(source)), mutant


def test_a_sample_follows_from_its_seed():
    sample = choose(["collect"], 12, seed=4)
    assert choose(["collect"], 12, seed=4) == sample != choose(["collect"], 12, seed=5)
    assert len(sample) == 12


def test_the_list_of_equivalent_mutants_is_in_step_with_the_code():
    known = {mutant.key for mutant in all_mutants()}
    for key, reason in equivalent():
        assert key in known, f"{key} is no mutant any more: take it off equivalent.yaml"
        assert len(reason) > 20


def test_the_list_of_past_changes_is_in_step_with_the_code():
    for entry in past():
        source = (ROOT / entry["file"]).read_text()
        assert source.count(entry["before"]) == 1, f"{entry} does not say one place any more: write it as it is now"
        ast.parse(source.replace(entry["before"], entry["after"]))
        assert (ROOT / entry["tests"]).exists()


def test_tests_of_a_file_come_before_those_of_its_room():
    waves = waves_of_tests(ROOT, "eql_d2/losses/seesaw.py")
    assert waves["mirror"] == ["tests/losses/test_seesaw.py"]
    assert "tests/losses/test_interface.py" in waves["room"]
    assert waves["mirror"][0] not in waves["room"]
