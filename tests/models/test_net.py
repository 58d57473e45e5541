from models.net import Net


def test_net_has_62006_parameters() -> None:
    assert sum(parameter.numel() for parameter in Net().parameters()) == 62_006
