import copy

from tasks.benchmarking.environment import describe_environment
from tasks.reproduce.machine import describe_machine_change


def test_change_of_machine_is_described() -> None:
    recorded = describe_environment([]) | {"device": "cpu"}
    assert describe_machine_change(recorded, "cpu") == ""
    other = copy.deepcopy(recorded)
    torch = other["versions"]["torch"]
    other["versions"] |= {"torch": "1.0", "python": "2.7"}
    other |= {"cpu": "Z80", "flags": [*other["flags"], "avx9"]}
    assert describe_machine_change(other, "cuda") == (
        f"trained on cuda, then cpu; CPU {recorded['cpu']}, then Z80; torch {torch}, then 1.0; "
        "CPU flags that only one of them has: avx9"
    )
