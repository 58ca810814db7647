# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import base64
import csv
import html.parser
import io
import json
import subprocess
import sys
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.bin.report import main
from espnet2_distilmos.data.frames import write_frames

from .browser import Browser, find_browser

ROOT = Path(__file__).resolve().parents[3]
RATE = 16000
HOSTILE = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned=1'>&amp;&lt;b&gt;",
    "</script><b>bold</b><!--",
    "line\nbreak \u202e and \"quotes\" & 'more'",
    "{{ 7 * 7 }} %{x} $1$ $&",
    "javascript:alert(1)",
    "x" * 300,
    "__proto__",
]
NAMES = HOSTILE + [f"clip{k:02d}" for k in range(len(HOSTILE), 40)]
SYSTEMS = ["<i>sys</i> & co", "1e5", "2020-01-01", "constructor"]


def tone(k):
    time = np.arange(RATE // 2) / RATE
    return (0.3 * np.sin(2 * np.pi * (200 + 40 * k) * time)).astype(np.float32)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Scores of two models for 40 clips with their audio, frames and labels."""
    for package in ("plotly", "itables", "jinja2", "PIL"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    true = generator.uniform(1, 5, len(NAMES)).round(2)
    (tmp_path / "wav").mkdir()
    for k, name in enumerate(NAMES):
        soundfile.write(f"wav/{k} #ü%.wav", tone(k), RATE)
        write_frames("frames", name, np.full(25, true[k], np.float32))
    info = {"frame_shift": 320, "frame_centre": 200, "sample_rate": RATE}
    (tmp_path / "frames" / "frames.json").write_text(json.dumps(info))
    for model in ("a", "b"):
        with open(f"{model}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "path", "score", "error", "novelty", "system"])
            for k, name in enumerate(NAMES):
                score = round(true[k] + generator.normal(), 6)
                row = [name, f"wav/{k} #ü%.wav", score, "", k / 20, SYSTEMS[k % 4]]
                writer.writerow(row)
    with open("labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "mos"), *zip(NAMES, true)])
    return tmp_path


COMMAND = ["a.csv", "b.csv", "--labels", "labels.csv", "--frames", "frames"]
COMMAND += ["--bootstrap", "20", "--output", "out/report.html", "--embed", "3"]


class Page(html.parser.HTMLParser):
    """Elements of a page, by their names: attributes and text."""

    def __init__(self, path):
        super().__init__()
        self.elements = [("", {}, [])]
        self.size = path.stat().st_size
        self.feed(path.read_text(encoding="utf-8"))
        scripts = {a.get("id"): text for a, text in self.all("script")}
        self.data = json.loads(scripts["data"])
        self.figures = json.loads(scripts["figures"])
        self.text = " ".join(
            "".join(text)
            for name, _, text in self.elements
            if name not in ("script", "style")
        )

    def all(self, name):
        found = [(a, "".join(text)) for n, a, text in self.elements if n == name]
        return [(a, text.rstrip("\n")) for a, text in found]

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_data(self, data):
        self.elements[-1][2].append(data)


def scores_of(name):
    with open(name, newline="", encoding="utf-8") as file:
        return [float(row["score"]) for row in csv.DictReader(file)]


def test_the_page_has_scores_sound_and_names_as_text(site, capsys):
    assert main(COMMAND) == 0
    page = Page(site / "out" / "report.html")
    assert page.data["scores"] == [scores_of("a.csv"), scores_of("b.csv")]
    assert page.data["id"][:3] == HOSTILE[:3]
    # A name that would not be on one line is shown as Python would.
    assert page.data["id"][3] == repr(HOSTILE[3])
    for k in range(len(NAMES)):
        link = page.data["folders"][page.data["folder"][k]] + page.data["file"][k]
        assert link.startswith("file:///") and not set(link) & set(" #<>\n\"'")
        found = urllib.parse.unquote(urllib.parse.urlsplit(link).path)
        assert found == str(site / "wav" / f"{k} #ü%.wav")
    # No element, attribute or script comes from a name.
    assert len(page.all("script")) == 5 and not page.all("i") and not page.all("b")
    assert all(set(a) <= {"src", "alt"} for a, _ in page.all("img"))
    links = [a["href"] for a, _ in page.all("a")]
    assert all(link.startswith(("#", "file:///")) for link in links)
    shown = [text for _, text in page.all("h4")]
    scores = np.array(page.data["scores"][0])
    worst = [NAMES[k] for k in np.argsort(scores)[:3]]
    assert shown[:3] == [n if n.isprintable() else repr(n) for n in worst]
    sounds = [a["src"].partition("base64,")[2] for a, _ in page.all("audio")]
    assert len(sounds) == len(shown) == len(page.all("polyline")) >= 9
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds[0])))
    expected = tone(np.argsort(scores)[0])
    assert rate == RATE
    assert np.corrcoef(samples[: len(expected)], expected)[0, 1] > 0.95
    out = capsys.readouterr().out
    assert f"40 clips in the table, {len(shown)} to hear" in out
    first = (site / "out" / "report.html").read_bytes()
    assert main(COMMAND) == 0
    assert (site / "out" / "report.html").read_bytes() == first


def test_links_only_beside_the_page(site):
    assert main(["a.csv", "--output", "report.html", "--embed", "0"]) == 0
    page = Page(site / "report.html")
    assert not page.all("audio") and not page.all("img")
    assert page.data["folders"] == ["wav/"]
    assert page.data["file"][9] == urllib.parse.quote("9 #ü%.wav")
    assert "the links lead to the files" in page.text
    assert "Against the labels" not in page.text


def test_what_is_wrong_with_a_clip_is_said_and_the_rest_done(site, capsys):
    scores = np.array(scores_of("a.csv"))
    worst, second = np.argsort(scores)[:2]
    (site / "wav" / f"{worst} #ü%.wav").write_bytes(b"no audio" * 100)
    (site / "wav" / f"{second} #ü%.wav").unlink()
    with open("a.csv", "a", newline="") as file:
        csv.writer(file).writerow(["bad", "bad.wav", "", "bad.wav is empty", "", "s"])
    assert main(["a.csv", *COMMAND[2:]]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert sum("cannot be read as audio" in line for line in lines) == 1
    assert sum("does not exist" in line for line in lines) == 1
    assert any("a.csv has no score for 1 utterance" in line for line in lines)
    page = Page(site / "out" / "report.html")
    assert page.data["errors"] == {"40": "bad.wav is empty"}
    assert page.data["scores"][0][40] is None
    assert "cannot be read as audio" in page.text
    assert len(page.all("h4")) - len(page.all("audio")) == 2


def test_equal_problems_are_one_sentence(site, capsys):
    names = [f"clip{k:02d}" for k in range(8, 20)]
    rows = [
        f"{n},{f'gone/{n}.wav' if k < 6 else ''},{k}\n" for k, n in enumerate(names)
    ]
    Path("p.csv").write_text("id,path,score\n" + "".join(rows))
    command = ["p.csv", "--output", "r.html"]
    assert main(command) == 1
    lines = capsys.readouterr().err.splitlines()
    (lost,) = [line for line in lines if "does not exist" in line]
    assert "6 clips, the first is clip08: gone/clip08.wav" in lost
    assert "--audio_root" in lost
    (unknown,) = [line for line in lines if "no file is known" in line]
    assert "6 clips, the first is " in unknown
    # No link leads nowhere.
    page = Page(site / "r.html")
    assert not any(page.data["file"])
    assert all(a["href"].startswith("#") for a, _ in page.all("a"))
    assert main(["a.csv", "--output", "r.html", "--frames", "nowhere"]) == 1
    assert capsys.readouterr().err.count("clips, the first is ") == 1


def test_the_limit_of_the_size(site, capsys):
    small = [*COMMAND, "--max_mb", "1"]
    assert main(small) == 1
    sentence = capsys.readouterr().err
    assert "--max_mb is 1, expected more than the" in sentence
    least = float(sentence.split("more than the ")[1].split(" MB")[0])
    rows = "".join(f"{'y' * 80}{k},{k % 7}\n" for k in range(3000))
    Path("long.csv").write_text("id,score\n" + rows)
    command = ["long.csv", "--output", "r.html", "--max_mb", str(least + 0.1)]
    assert main([*command, "--embed", "0"]) == 0
    page = Page(site / "r.html")
    number = page.data["number"]
    assert page.size <= 1e6 * (least + 0.1) and 500 < len(number) < 3000
    assert f"{len(number)} of 3000 clips" in page.text
    # All that the lists name are there.
    assert all(row < len(number) for one in page.data["lists"] for row in one["rows"])
    # Here the table has room, and not all of the sound.
    assert main([*COMMAND[:-1], "20", "--max_mb", str(least + 0.2)]) == 0
    page = Page(site / "out" / "report.html")
    assert page.size <= 1e6 * (least + 0.2)
    assert 0 < len(page.all("audio")) < 40
    assert "the page would be too large" in page.text


@pytest.mark.parametrize("path", ["/elsewhere/x/{}.flac", "{}", ""])
def test_audio_of_another_machine(path, site):
    for k in range(8, 12):
        soundfile.write(f"wav/clip{k:02d}.wav", tone(k), RATE)
    rows = [f"{n},{path.format(n)},{k},\n" for k, n in enumerate(NAMES[8:12])]
    Path("far.csv").write_text("id,path,score,error\n" + "".join(rows))
    assert main(["far.csv", "--output", "r.html", "--audio_root", "wav"]) == 0
    page = Page(site / "r.html")
    assert len(page.all("audio")) == 4
    assert page.data["file"][0] == "\n.wav" and page.data["folders"] == ["wav/"]


def test_audio_of_a_data_directory(site):
    (site / "set").mkdir()
    Path("set/wav.scp").write_text(f"clip09 {site}/wav/9 #ü%.wav\n")
    Path("set/metric.scp").write_text('clip09 {"mos": 3}\n')
    Path("set/utt2src").write_text("clip09 s\n")
    Path("far.csv").write_text("clip09,3.5\n")
    assert main(["far.csv", "--labels", "set", "--output", "r.html"]) == 0
    page = Page(site / "r.html")
    assert len(page.all("audio")) == 1 and "of the same system" in page.text


def test_systems_where_only_some_clips_have_a_label(site, capsys):
    """The files say together which clips a system has."""
    names = [f"clip{k:02d}" for k in range(8, 20)]
    Path("p.csv").write_text("".join(f"{n},{k % 5}\n" for k, n in enumerate(names)))
    command = ["p.csv", "--embed", "0", "--output", "r.html", "--labels"]
    rows = [f"{n},3.{k},sys{k % 2}\n" for k, n in enumerate(names[:4])]
    Path("some.csv").write_text("id,mos,system\n" + "".join(rows))
    assert main([*command, "some.csv"]) == 1
    sentence = "names the system of 8 utterances (the first is clip12)"
    err = capsys.readouterr().err
    assert sentence in err and "--systems" in err
    assert sentence in Page(site / "r.html").text
    # The data directory knows those of all.
    (site / "set").mkdir()
    Path("set/metric.scp").write_text("".join(f'{n} {{"mos": 3}}\n' for n in names[:4]))
    Path("set/utt2sys").write_text("".join(f"{n} sys{n[-1]}\n" for n in names))
    assert main([*command, "set"]) == 0
    assert -1 not in Page(site / "r.html").data["system"]


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--embed", "-1"], "--embed is -1"),
        (["--max_mb", "nan"], "--max_mb is nan"),
        (["--bootstrap", "-1"], "--bootstrap is -1"),
        (["x/a.csv"], "have both the name a"),
    ],
)
def test_bad_options(options, sentence, site, capsys):
    (site / "x").mkdir()
    (site / "x" / "a.csv").write_text("clip09,3.5\n")
    assert main(["a.csv", *options, "--output", "r.html"]) == 1
    assert sentence in capsys.readouterr().err
    assert not (site / "r.html").exists()


@pytest.mark.parametrize(
    "output",
    ["-", "a.csv", "wav/../labels.csv", "link", "wav", "/dev/full", "d/wav.scp"],
)
def test_an_output_that_is_none(output, site, capsys):
    (site / "link").symlink_to("elsewhere.html")
    (site / "d").mkdir()
    before = (site / "a.csv").read_bytes(), (site / "labels.csv").read_bytes()
    labels = "d" if output.startswith("d/") else "labels.csv"
    command = ["NAME=a.csv", "--labels", labels, "--embed", "0", "--output", output]
    assert main(command) == 1
    assert f"--output is {output}, " in capsys.readouterr().err
    assert before == ((site / "a.csv").read_bytes(), (site / "labels.csv").read_bytes())
    assert (site / "link").is_symlink() and not Path("/dev/full").is_file()
    assert not (site / "-").exists() and not (site / "elsewhere.html").exists()


@pytest.mark.parametrize("package", ["plotly", "itables", "jinja2", "PIL"])
def test_a_package_of_the_extra_is_missing(package, site, capsys, monkeypatch):
    import importlib.util

    find_spec = importlib.util.find_spec
    loaded = [name for name in sys.modules if name.partition(".")[0] == package]
    for name in {package, *loaded}:
        monkeypatch.setitem(sys.modules, name, None)
    if package == "itables":
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n: n != package and find_spec(n) or None
        )
    assert main(["a.csv", "--output", "r.html"]) == 1
    err = capsys.readouterr().err
    assert f"the package {package} is missing" in err
    assert "pip install espnet2_distilmos[report]" in err


def test_it_starts_light(site):
    code = (
        "import sys\n"
        "from espnet2_distilmos.bin.report import get_parser, main\n"
        "get_parser().format_help()\n"
        "heavy = {'torch', 'plotly', 'itables', 'jinja2', 'PIL', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert main(['a.csv', '--output', 'r.html', '--embed', '1']) == 0\n"
        "assert not {'torch', 'matplotlib', 'pandas'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_template_and_script_are_installed(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for name in ("page.html", "page.js"):
        assert (tmp_path / "espnet2_distilmos" / "evaluation" / name).exists()


def test_after_predict(site, scorer_dir, mos_corpus):
    """Scores as they are, and the frames where `predict` says that they are."""
    from espnet2_distilmos.bin.predict import main as predict

    files = [str(mos_corpus.root / "valid" / "data"), "--model", str(scorer_dir)]
    assert predict([*files, "--output", "s.csv", "--frames", "f"]) == 0
    assert main(["s.csv", "--output", "r.html", "--embed", "2"]) == 0
    page = Page(site / "r.html")
    assert page.data["scores"] == [scores_of("s.csv")]
    assert len(page.all("audio")) == len(page.all("polyline")) == 4


# In a browser

INFO = "document.querySelector('#table-clips_info, .dt-info').textContent"
FIRST = "document.querySelector('#table-clips tbody td').textContent"


def cells(column):
    return (
        "[...document.querySelectorAll('#table-clips tbody tr')].map((row) => "
        f"row.children[{column}].textContent)"
    )


@pytest.fixture
def browser(tmp_path_factory):
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium was found; install one to open the page in a browser")
    with Browser(program, tmp_path_factory.mktemp("browser")) as found:
        yield found


def test_in_a_browser(site, browser):
    assert main(COMMAND) == 0
    browser.open(site / "out" / "report.html")
    scores = [f"{score:.3f}" for score in scores_of("a.csv")]
    # Names are text, in the order of the file.
    shown = [n if n.isprintable() else repr(n) for n in NAMES]
    assert browser.evaluate(cells(0)) == shown[:25]
    assert browser.evaluate(cells(1)) == scores[:25]
    assert "1 to 25 of 40 entries" in browser.evaluate(INFO)

    # Sorts, by the keyboard alone.
    browser.evaluate(
        "document.querySelectorAll('#table-clips th .dt-column-order')[1].focus()"
    )
    for ordered in (sorted(scores, key=float), sorted(scores, key=float)[::-1]):
        browser.press("Enter", 13, "\r")
        expected = json.dumps(ordered[:25])
        browser.wait(f"JSON.stringify({cells(1)}) === JSON.stringify({expected})")

    # Filters by system, list and score.
    def choose(name, value):
        browser.evaluate(
            f"(() => {{ const one = document.querySelector('#filter-{name}');"
            f" one.value = {json.dumps(value)};"
            " one.dispatchEvent(new Event('change')); })()"
        )

    choose("system", "0")
    assert "of 10 entries (filtered from 40" in browser.evaluate(INFO)
    choose("low", "3")
    number = sum(float(score) >= 3 for score in scores[::4])
    assert f"of {number} entr" in browser.evaluate(INFO)
    browser.evaluate("document.querySelector('#filter-clear').click()")
    choose("list", "0")
    assert "of 3 entries" in browser.evaluate(INFO)
    lowest = sorted(map(float, scores))[:3]
    assert sorted(map(float, browser.evaluate(cells(1)))) == lowest
    browser.evaluate("document.querySelector('#filter-clear').click()")

    # Searches what one sees, markup and all.
    for text, name in (("clip17", "clip17"), ("<script>", NAMES[0])):
        browser.evaluate("document.querySelector('.dt-search input').focus()")
        browser.evaluate("document.querySelector('.dt-search input').select()")
        browser.call("Input.insertText", text=text)
        browser.wait(f"{FIRST} === {json.dumps(name)}")
        assert "of 1 entry" in browser.evaluate(INFO)
    browser.evaluate("document.querySelector('#filter-clear').click()")

    # From the table to a player, which plays; the cursor follows.
    link = "document.querySelector('#table-clips a[href=\"#clip-1\"]')"
    choose("list", "0")
    browser.evaluate(f"{link}.click()")
    card = "document.querySelector('.clip:target')"
    browser.wait(f"{card} !== null")
    browser.evaluate(f"{card}.querySelector('audio').play()")
    browser.wait(f"{card}.querySelector('audio').currentTime > 0.1")
    assert browser.evaluate(f"{card}.querySelector('audio').duration") == pytest.approx(
        0.5, abs=0.1
    )
    assert browser.evaluate(f"{card}.querySelector('.cursor').style.left") != ""

    # Figures are drawn; names in them are text.
    places = "[...document.querySelectorAll('[id^=figure-]')]"
    assert browser.evaluate(f"{places}.every((f) => f.querySelector('.main-svg'))")
    ticks = "document.querySelector('#figure-systems').textContent"
    assert SYSTEMS[0] in browser.evaluate(ticks)

    # What is hidden is not shown.
    label = "document.querySelector('.filters label')"
    assert browser.evaluate(f"{label}.offsetParent !== null")
    browser.evaluate(f"{label}.hidden = true")
    assert browser.evaluate(f"{label}.offsetParent === null")

    # Nothing is wider than a phone.
    browser.resize(390, 800, mobile=True)
    browser.wait("document.documentElement.scrollWidth <= 390")
    assert browser.evaluate("window.pwned === undefined")
    assert browser.complaints == []
    assert browser.requests == []


def test_a_script_of_another_does_not_run(site, browser):
    """Were a name ever not escaped, the page's policy would keep it from running."""
    assert main(["a.csv", "--output", "r.html", "--embed", "0"]) == 0
    text = (site / "r.html").read_text(encoding="utf-8")
    evil = "<script>window.pwned = 1</script><img src='http://localhost:9/x'>"
    (site / "r.html").write_text(text.replace("<main>", f"<main>{evil}"))
    browser.open(site / "r.html")
    assert browser.evaluate("window.pwned === undefined")
    assert len(browser.complaints) == 2
    assert all("Content Security Policy" in one for one in browser.complaints)


@pytest.mark.slow
def test_a_hundred_thousand_rows(site, browser):
    rows = [
        f"system{k % 40:02d}-{k:06d},{k * 7919 % 100003 / 25000}\n"
        for k in range(100000)
    ]
    Path("many.csv").write_text("id,score\n" + "".join(rows))
    command = [
        "many.csv",
        "--systems",
        "^([^-]+)",
        "--output",
        "r.html",
        "--embed",
        "0",
    ]
    assert main(command) == 0
    assert (site / "r.html").stat().st_size < 30e6
    browser.open(site / "r.html")
    assert "of 100,000 entries" in browser.evaluate(INFO)
    browser.evaluate(
        "document.querySelectorAll('#table-clips th .dt-column-order')[1].click()"
    )
    browser.wait(f"{FIRST} === 'system00-000000'")
    browser.evaluate("document.querySelector('.dt-search input').focus()")
    browser.call("Input.insertText", text="-054321")
    browser.wait(f"{FIRST} === 'system01-054321'")
    assert browser.complaints == []
