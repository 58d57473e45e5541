import threading
from collections.abc import Iterator

import pytest

from tests.tasks.dataset.content_server import ContentServer


@pytest.fixture
def server() -> Iterator[ContentServer]:
    with ContentServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
