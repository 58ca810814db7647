# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark_statistics.py"
spec = importlib.util.spec_from_file_location("benchmark_statistics", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def test_a_row_for_each_command(capsys, tmp_path):
    sizes = ["--score", "60", "--compare", "60", "--models", "2", "--bootstrap", "9"]
    assert tool.main(sizes) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    names = [row[0].strip() for row in rows]
    assert names[-2:] == ["score, 60 rows", "compare, 2 × 60 rows"]
    assert names[:-2] == [f"{name} --help" for name in tool.HELP]
    for *_, cpu, spread, wall, mib in rows:
        low, high = map(float, spread.split("–"))
        assert 0 < low <= float(cpu) <= high and float(wall) > 0
        # the goal of a help text: an interpreter with torch has several times that
        assert 5 < float(mib) < 300
    with pytest.raises(RuntimeError, match="score labels.csv m.csv: .*labels.csv"):
        tool.cost_of(str(tool.ROOT), tmp_path, ["score", "labels.csv", "m.csv"])


def test_memory_is_that_of_the_process(tmp_path, monkeypatch):
    """A process that holds 200 MiB more has 200 MiB more."""
    bins = tmp_path / "espnet2_distilmos" / "bin"
    bins.mkdir(parents=True)
    code = "def main(arguments):\n    held = b'x' * (int(arguments[0]) << 20)\n"
    (bins / "distilmos.py").write_text(code)
    for folder in (bins, bins.parent):
        (folder / "__init__.py").touch()
    less, more = (tool.cost_of(str(tmp_path), tmp_path, [n]) for n in ("1", "201"))
    assert more.mib - less.mib == pytest.approx(200, abs=10)
