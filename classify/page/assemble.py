"""The page itself: one HTML file of a template, its style, its scripts and the findings as JSON."""

import base64
import dataclasses
import datetime
import hashlib
import html
import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from classify.page import album, tables, words
from classify.page.findings import Findings, OnProgress, OnStage, Question, find
from classify.page.origin import origin
from classify.page.thumbnails import Look, Thumbnails, make_thumbnails
from data import VERSION
from data.errors import StoreError
from data.results import plain
from data.spec import FeatureSpec
from data.staging import disk_full_hint, write_atomically
from data.views import View

SIZE = 5_000_000
_SPLIT_ORDER = {"train": 0, "val": 1, "test": 2}
# One script: these files in this order, in one function.
_SCRIPTS = (
    "base.js",
    "charts.js",
    "pictures.js",
    "corrections.js",
    "heads.js",
    "confusion.js",
    "map.js",
    "review.js",
    "dataset.js",
    "main.js",
)


@dataclasses.dataclass(frozen=True)
class Page:
    """A report that was written.

    Parameters
    ----------
    path : Path
        The file.
    bytes : int
        Its size.
    findings : Findings
        What it says.
    summary : list of str
        The result in sentences, and what is worth a look.
    pictures, thumbnails, gone : int
        Pictures that it names; those with a thumbnail; those that are gone or have changed.
    """

    path: Path
    bytes: int
    findings: Findings
    summary: list[str]
    pictures: int
    thumbnails: int
    gone: int

    def as_json(self) -> dict[str, Any]:
        """Return what `report --json` prints."""
        found = self.findings
        return {
            "report": str(self.path),
            "bytes": self.bytes,
            "summary": self.summary,
            "dataset": found.dataset,
            "split": found.asked.samples.split,
            "n": len(found.asked.samples),
            "classes": found.asked.classes,
            "heads": [scores.as_json() for scores in found.scores],
            "pairs": [dataclasses.asdict(pair) for pair in found.pairs],
            "audit": found.audit,
            "learning_curve": found.curve and found.curve[1].as_json(),
            "advice": found.advice and found.advice.as_json(),
            "maps": [drawn.kind for drawn, _ in found.maps],
            "pictures": self.pictures,
            "thumbnails": self.thumbnails,
            "gone": self.gone,
            "notes": found.notes,
        }


def refuse_other_file(path: Path) -> None:
    """Raise if a report would replace something that is none.

    Raises
    ------
    StoreError
        With the next step.
    """
    if path.is_dir() or (path.exists() and not _is_report(path)):
        raise StoreError(f"{path} exists and is no report: name another file with -o")


def _is_report(path: Path) -> bool:
    with open(path, "rb") as file:
        return _MARK.encode() in file.read(2000)


def write_report(
    path: Path,
    question: Question,
    *,
    look: Look | None,
    licence: Callable[[FeatureSpec], str],
    command: str,
    size: int = SIZE,
    on_stage: OnStage = lambda what: None,
    on_progress: OnProgress = lambda done, total: None,
) -> Page:
    """Measure, and write the page.

    Parameters
    ----------
    path : Path
        The HTML file; an old report is replaced at once or not at all.
    question : Question
        What is asked.
    look : callable, optional
        Returns the pixels of a picture of the image set, by its row; see `classify.page.thumbnails`.
    licence : callable
        Returns the licence of the weights behind a spec, empty where it is not known.
    command : str
        That the page tells to make it again.
    size : int
        Bytes that thumbnails may fill up to; the rest of the page is as large as it is.
    on_stage, on_progress : callable
        As `classify.page.findings.find` takes them.

    Raises
    ------
    StoreError
        If `path` is something else than a report.
    PenultError
        If the heads cannot be measured.
    """
    refuse_other_file(path)
    found = find(question, on_stage, on_progress)
    view = question.store.view(found.dataset)
    chosen = album.choose(found, view, question.seed)
    content = _content(question, found, view, chosen)
    content["origin"] = origin(question.store, view, [m.head for m in found.asked.measured], licence, command)
    fixed = len(_fill({**content, "thumbs": []}))
    on_stage("thumbnails")
    thumbnails = make_thumbnails(look, chosen.rows, chosen.large, max(size - fixed, 0), on_progress)
    steps = words.next_steps(found, thumbnails.gone if thumbnails.uris else 0)
    content["thumbs"] = [thumbnails.uris.get(row, "") for row in chosen.rows]
    content["thumbnails"] = _told(thumbnails)
    content["steps"] = steps
    page = _fill(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_hint(path, len(page)):
        write_atomically(path, page)
    return Page(
        path=path,
        bytes=len(page),
        findings=found,
        summary=[*content["headline"], *(step["text"] for step in steps)],
        pictures=len(chosen.rows),
        thumbnails=len(thumbnails.uris),
        gone=thumbnails.gone,
    )


def _told(found: Thumbnails) -> str:
    if not found.uris and found.gone:
        return "The pictures are not where they were: this report names them and shows none (--images says where)."
    parts = []
    if found.gone:
        parts.append(f"{found.gone:,} pictures are gone or have changed since, and have no thumbnail")
    if found.left_out:
        parts.append(f"{found.left_out:,} more did not fit into the size of this page (--size)")
    return "; ".join(parts) + "." if parts else ""


def _content(question: Question, found: Findings, view: View, chosen: album.Album) -> dict[str, Any]:
    """Return all that the page shows, but for pictures and their origin."""
    names = tables.short_names([s.head for s in found.scores])
    by_file = dict(zip([s.head for s in found.scores], names, strict=True))
    splits = sorted(set(view.splits.tolist()), key=lambda name: (_SPLIT_ORDER.get(name, 3), name))
    verdicts = ["best", *(_verdict(found, s.head) for s in found.scores[1:])]
    rows = zip(found.scores, found.asked.measured, names, verdicts, strict=True)
    advice = found.advice
    targets = album.targets_of(question.store, view)
    return {
        "title": found.dataset,
        "made": datetime.datetime.now(datetime.UTC).strftime("%d %B %Y"),
        "version": VERSION,
        "split": found.asked.samples.split,
        "n": len(found.asked.samples),
        "classes": chosen.names,
        "n_classes": len(found.asked.classes),
        "splits": splits,
        "headline": words.headline(found, names),
        "notes": found.notes,
        "pictures": album.picture_table(chosen, targets, view, splits),
        "answers": album.answer_table(found, chosen),
        "heads": [tables.head_table(*row) for row in rows],
        "pairs": [tables.pair_table(pair, by_file) for pair in found.pairs],
        "separation": found.separation and dataclasses.asdict(found.separation),
        "curve": found.curve and tables.curve_table(found.curve[1], found.curve[2], names[found.curve[0]]),
        "maps": album.map_table(found, chosen),
        "audit": album.audit_table(found, chosen),
        "dataset": tables.dataset_table(view, targets, splits),
        "choices": album.choices(chosen, view),
        "corrections": album.corrections_of(question.store, view),
        "identity": album.identity(view, targets),
        "advice": advice and _advice(advice.as_json()),
    }


def _verdict(found: Findings, head: str) -> str:
    return "tie" if words.tied(found.pairs, found.scores[0].head, head) else "worse"


def _advice(advice: dict[str, Any]) -> dict[str, Any]:
    kept = ("sentence", "why", "case", "similarity", "evidence", "gain", "price", "unknown", "pictures", "per_class")
    best = advice["backbones"][0]
    layers = [{"name": x["name"], "accuracy": x["accuracy"], "ci95": x["interval"]} for x in best["layers"]]
    return {**{key: advice[key] for key in kept}, "network": best["name"], "layers": layers}


_MARK = '<meta name="generator" content="Penult report">'


def _fill(content: dict[str, Any]) -> bytes:
    """Return the page for what it shows."""
    style, script = _asset("page.css"), _script()
    policy = f"default-src 'none'; img-src data:; style-src {_hashed(style)}; script-src {_hashed(script)}"
    parts = {
        "MARK": _MARK,
        "POLICY": f"{policy}; base-uri 'none'; form-action 'none'",
        "TITLE": html.escape(plain(f"{content['title']}: report")),
        "STYLE": style,
        "DATA": embedded_json(content),
        "SCRIPT": script,
    }
    page = _asset("page.html")
    pieces = page.split("@@")  # text, NAME, text, NAME, ...: nothing that is filled in is looked at again
    pieces[1::2] = [parts[name] for name in pieces[1::2]]
    return "".join(pieces).encode()


def embedded_json(content: Any) -> str:
    r"""Return JSON that may stand in a script element: no text in it can end the element or begin another.

    Examples
    --------
    >>> embedded_json({"class": "</script>"})
    '{"class":"\\u003c/script>"}'
    """
    text = json.dumps(plain(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> str:
    return (files("classify.page") / name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    parts: Sequence[str] = [_asset(name) for name in _SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"
