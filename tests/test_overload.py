"""More requests than the server can answer: what it takes on is answered in time, and the rest is told so at once."""

import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from served import Running, binary, reader_bundle, serving

from benchmarks import faulty, fuzz

WAITING = 16
CLIENTS = 64
SECONDS = 4.0

# In a process of its own: CLIENTS connections, each of which asks again as soon as it is answered, but not before its
# turn comes at `rate` requests a second of all together; rate 0: at once.
LOAD = """
import asyncio, json, sys, time

async def client(port, request, place, clients, rate, end, told):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    turn = time.monotonic() + (place / rate if rate else 0)
    while (now := time.monotonic()) < end:
        if turn > now:
            await asyncio.sleep(turn - now)
        start = time.monotonic()
        writer.write(request)
        head = (await reader.readuntil(b"\\r\\n\\r\\n")).lower()
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\\r\\n")[0]))
        told.append((int(head.split()[1]), time.monotonic() - start, b"\\r\\nretry-after: 1\\r\\n" in head))
        turn = max(turn + clients / rate, start) if rate else 0
    writer.close()

async def main():
    port, clients, rate, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    request, told = sys.stdin.buffer.read(), []
    end = time.monotonic() + seconds
    await asyncio.gather(*[client(port, request, i, clients, rate, end, told) for i in range(clients)])
    print(json.dumps(told))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("overload")
    with serving(folder / "log", reader_bundle(folder / "writer", recipe="writer"), "--waiting", WAITING) as running:
        yield running


def asked(server: Running, clients: int, rate: float) -> list[tuple[int, float, bool]]:
    """Status, seconds and whether it has Retry-After: of each answer to requests of some milliseconds."""
    body, headers = binary({"text": np.full((16, 64), 65, np.uint8)})
    lines = [f"POST /v2/models/writer-fp32/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(server.port), str(clients), str(rate), str(SECONDS)],
        input="\r\n".join([*lines, "", ""]).encode() + body,
        capture_output=True,
        timeout=60,
        check=True,
    )
    return [tuple(each) for each in json.loads(done.stdout)]


@pytest.mark.slow
def test_at_four_times_the_capacity_half_of_it_is_answered_and_in_time(server: Running) -> None:
    asked(server, 8, 0)
    calm = asked(server, 8, 0)
    assert {status for status, *_ in calm} == {200}
    capacity = len(calm) / SECONDS
    told = asked(server, CLIENTS, 4 * capacity)
    taken = [seconds for status, seconds, _ in told if status == 200]
    refused = [(status, retry) for status, _, retry in told if status != 200]
    assert set(refused) == {(503, True)} and len(refused) > len(taken) / 2
    assert len(taken) / SECONDS > capacity / 2
    # Who is taken on waits for those before him, for the batch that runs and for his own; on a busy machine longer.
    batch = 64 // 16
    assert np.quantile(taken, 0.99) < 4 * (WAITING + 2 * batch) / capacity
    after = asked(server, 8, 0)
    assert {status for status, *_ in after} == {200} and len(after) > len(calm) / 2
    print(f"capacity {capacity:.0f}/s, taken {len(taken) / SECONDS:.0f}/s, p99 {1e3 * np.quantile(taken, 0.99):.0f} ms")


@pytest.mark.slow
def test_memory_stays_where_it_is_over_a_hundred_thousand_requests(server: Running) -> None:
    took = faulty.flat(server, "writer-fp32", 100_000)
    assert took[-1] < took[0] + fuzz.GROWS_MIB
