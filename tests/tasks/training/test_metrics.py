from pathlib import Path

from tasks.training.metrics import EpochMetrics, write_history


def test_write_history_gives_one_row_per_epoch(tmp_path: Path) -> None:
    write_history(tmp_path / "h.csv", [EpochMetrics(1, 2.5, 0.1, 2.25, 0.125, 0.001)])
    assert (tmp_path / "h.csv").read_text() == (
        "epoch,train_loss,train_accuracy,val_loss,val_accuracy,learning_rate\n1,2.5,0.1,2.25,0.125,0.001\n"
    )
