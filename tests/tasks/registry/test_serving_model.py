"""Which model serves: the champion, never another one without a word."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.registry.ledger import CHAMPION, CHAMPION_DVC_FILE, LEDGER, LedgerEntry, append, read_ledger
from tasks.registry.serving_model import require_known_champion, resolve_serving_model
from tasks.workspace.errors import RunError
from tasks.workspace.files import hash_file
from tests.tasks.registry.test_ledger import make_entry

FALLBACK = Path("artifacts/model.onnx")


@pytest.fixture(autouse=True)
def _enter_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_champion(content: bytes) -> str:
    CHAMPION.parent.mkdir(exist_ok=True)
    CHAMPION.write_bytes(content)
    return hash_file(CHAMPION, "md5")


def test_serving_model_is_champion_else_fallback() -> None:
    assert resolve_serving_model(FALLBACK)[0] == FALLBACK
    append(LedgerEntry("promoted", "", write_champion(b"one"), 3, "", "", {}, {}))
    assert resolve_serving_model(FALLBACK) == (CHAMPION, read_ledger()[0].label)
    append(make_entry("promoted", "a"))  # the file follows a moment later
    assert resolve_serving_model(FALLBACK) == (CHAMPION, read_ledger()[0].label)


def test_serving_model_of_unknown_or_missing_file_raises() -> None:
    append(make_entry("promoted", "a"))
    with pytest.raises(RunError, match="not found; restore it with: cifarflow rollback --restore"):
        resolve_serving_model(FALLBACK)
    write_champion(b"two")
    with pytest.raises(
        RunError, match="does not match any promoted model; restore it with: cifarflow rollback"
    ):
        resolve_serving_model(FALLBACK)


def promote_file(content: bytes) -> LedgerEntry:
    """As a promotion does: the ledger, the file, its .dvc file."""
    entry = append(replace(make_entry("promoted", "a"), model_md5=write_champion(content)))
    CHAMPION_DVC_FILE.write_text(
        json.dumps({"outs": [{"md5": entry.model_md5, "size": 3, "hash": "md5", "path": "champion.onnx"}]})
    )
    return entry


def cut_last_line(length: int) -> None:
    *whole, last = LEDGER.read_bytes().splitlines(keepends=True)
    LEDGER.write_bytes(b"".join(whole) + last[:length])


@pytest.mark.parametrize("promotions", [1, 2])
def test_champion_whose_line_is_cut_short_is_served_or_refused(promotions: int) -> None:
    for content in (b"one", b"two")[:promotions]:
        promote_file(content)
    whole = LEDGER.read_bytes()
    num_served = 0
    for length in range(len(whole.splitlines()[-1])):
        LEDGER.write_bytes(whole)
        cut_last_line(length)
        try:
            served, label = resolve_serving_model(FALLBACK)
        except RunError as error:
            message = str(error)
            assert "cifarflow rollback VERSION" in message or "is empty: its decisions are lost" in message
            assert "cifarflow rollback --restore" not in message
        else:
            assert served == CHAMPION
            assert label == "as the last line of registry/ledger.jsonl says, which is cut short"
            num_served += 1
        with pytest.raises(RunError, match=r"restore it with: (cp|git checkout) "):
            require_known_champion()
    assert num_served > 100, "where the line still names the model"


def test_champion_before_a_line_that_is_cut_short_is_served_with_a_word() -> None:
    entry = promote_file(b"one")
    append(make_entry("promoted", "b"))
    cut_last_line(60)
    _, label = resolve_serving_model(FALLBACK)
    assert label == f"{entry.label}; the last line of {LEDGER} is cut short and may have promoted a model"


def test_rejection_that_is_cut_short_casts_no_doubt_on_the_champion() -> None:
    entry = promote_file(b"one")
    append(make_entry("rejected", "b"))
    cut_last_line(60)
    assert resolve_serving_model(FALLBACK) == (CHAMPION, entry.label)
    require_known_champion()


def test_ledger_that_is_gone_beside_its_champion_is_noticed() -> None:
    promote_file(b"one")
    LEDGER.unlink()
    for use in (require_known_champion, lambda: resolve_serving_model(FALLBACK)):
        with pytest.raises(RunError, match="none promotes the model that registry/champion"):
            use()


@pytest.mark.parametrize("content", ["<<<<<<< HEAD\n", "", "outs: []\n", "outs: 1\n", "[" * 9999])
def test_dvc_file_in_mid_merge_casts_no_doubt(content: str) -> None:
    promote_file(b"one")
    CHAMPION_DVC_FILE.write_text(content)
    require_known_champion()
    assert resolve_serving_model(FALLBACK) == (CHAMPION, read_ledger()[0].label)


def test_workspace_model_with_a_flipped_bit_is_refused() -> None:
    FALLBACK.parent.mkdir()
    FALLBACK.write_bytes(b"model")
    recorded = {"path": str(FALLBACK), "hash": "md5", "md5": hash_file(FALLBACK, "md5"), "size": 5}
    Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"export": {"outs": [recorded]}}}))
    assert resolve_serving_model(FALLBACK)[0] == FALLBACK
    FALLBACK.write_bytes(b"modem")
    with pytest.raises(RunError, match=r"not the file that dvc\.lock records: .* again with: cifarflow run"):
        resolve_serving_model(FALLBACK)
    for content in ("", "stages: {}\n", "stages: 1\n", "stages: {export: {}}\n", "<<<<<<<\n"):
        Path("dvc.lock").write_text(content)
        assert resolve_serving_model(FALLBACK)[0] == FALLBACK, "DVC says what is wrong with its file"
