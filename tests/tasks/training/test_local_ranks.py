"""Who else on the machine can take part in a training on several processes: nobody."""

import os
from pathlib import Path

import psutil
import pytest
import torch

from tasks.training.distributed import Ranks, join_ranks
from tasks.training.local_ranks import check_connections
from tasks.workspace.errors import RunError

pytestmark = pytest.mark.distributed
CPU = torch.device("cpu")


def test_ranks_listen_on_loopback_alone_and_meet_in_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = psutil.Process().net_connections("tcp")
    with join_ranks(2, CPU, reduce_once, ()) as ranks:
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        (other,) = (child for child in psutil.Process().children() if "local_ranks" in str(child.cmdline()))
        own = set(psutil.Process().net_connections("tcp")) - set(before)
        listeners = [each.laddr for each in (*own, *other.net_connections("tcp")) if each.status == "LISTEN"]
        assert [address.ip for address in listeners] == ["127.0.0.1"] * 2, "the listener of gloo in each rank"
        reduce_once(ranks)
    assert not list(tmp_path.iterdir())


def reduce_once(ranks: Ranks) -> None:
    assert ranks.all_reduce(torch.ones(1)).item() == 2


class FixedStore:
    """As the store of a rank, whose secret is the process's own."""

    def set(self, _key: str, _value: str) -> None:
        pass

    def get(self, _key: str) -> bytes:
        return str(os.getpid()).encode()


def check_with_another_secret(ranks: Ranks) -> None:
    check_connections(ranks.rank, ranks.world_size, FixedStore())  # type: ignore[arg-type]


def test_process_in_the_place_of_a_rank_is_an_error() -> None:
    message = "another process connected in the place of a rank"
    with pytest.raises(RunError, match=message), join_ranks(2, CPU, check_with_another_secret, ()) as ranks:
        check_with_another_secret(ranks)
