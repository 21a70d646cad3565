"""How fast images of tar shards and tables are read, against the same images as single files.

- `tar_over_files_s3_20ms`: images/s, read and decoded as a worker does it (`ImageFeed`, its usual
  threads), from moto's S3 behind a proxy that delays each request by 20 ms. moto and the proxy take
  CPU of the same machine.
- `tar_over_files_local`: likewise from local files, which are in the page cache: images per second
  of CPU, the median of several rounds.
- `table_over_files_s3_20ms`, `table_over_files_local`: the same of Parquet tables, row groups of
  100 images as Hugging Face's `datasets` writes them.
- `*_images_s`, `list_*_s`: the parts, and the seconds to list each collection.
"""

import asyncio
import io
import os
import statistics
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.photographs import write_photographs
from pipeline.annotate.image_feed import ImageFeed
from pipeline.annotate.observer import Observer
from pipeline.annotate.prefetch import LoadedImage, load_image
from pipeline.annotate.stopwatch import Stopwatch
from pipeline.collection.collect import collect
from pipeline.collection.manifest import Shards, shard_bounds
from pipeline.collection.read_ahead import ReadAhead
from pipeline.storage.places import ImagePlaces
from schemas.config import ImageConfig, RunConfig

NUM_IMAGES, NUM_TARS, SIZE_HW, SHARD = 400, 4, (240, 320), 100
DELAY_S = 0.02
ROUNDS = 7
_AWS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def measure() -> dict[str, float]:
    """Measure both places."""
    found: dict[str, float] = {"sources_images": NUM_IMAGES}
    with tempfile.TemporaryDirectory() as folder:
        files, tars = _collections(Path(folder))
        tables = _tables(files, Path(folder) / "tables")
        sizes = [file.stat().st_size for file in files.iterdir()]
        found["sources_image_kb"] = round(statistics.fmean(sizes) / 1000, 1)
        found["tar_over_files_local"] = _ratio(tars, files)
        found["table_over_files_local"] = _ratio(tables, files)
        with _slow_s3(DELAY_S) as client:
            for place in (files, tars, tables):
                for file in place.iterdir():
                    client.upload_file(str(file), "bucket", f"{place.name}/{file.name}")
            _read(f"s3://bucket/{tars.name}")  # the first one loads the client
            of_files, of_tars, of_tables = (
                _read(f"s3://bucket/{place.name}") for place in (files, tars, tables)
            )
    for name, one in (("files", of_files), ("tar", of_tars), ("table", of_tables)):
        found[f"{name}_s3_20ms_images_s"] = round(one["per_s"], 1)
        found[f"list_{name}_s3_20ms_s"] = round(one["list_s"], 2)
    found["tar_over_files_s3_20ms"] = round(of_tars["per_s"] / of_files["per_s"], 2)
    found["table_over_files_s3_20ms"] = round(of_tables["per_s"] / of_files["per_s"], 2)
    return found


def _collections(folder: Path) -> tuple[Path, Path]:
    """Return a folder of JPEG files, and one of the same files in tar shards with their texts."""
    files = write_photographs(folder / "files", SIZE_HW, NUM_IMAGES, 20)
    tars = folder / "tars"
    tars.mkdir()
    names = sorted(file.name for file in files.iterdir())
    for number in range(NUM_TARS):
        with tarfile.open(tars / f"{number:03d}.tar", "w") as archive:
            for name in names[number * NUM_IMAGES // NUM_TARS :][: NUM_IMAGES // NUM_TARS]:
                archive.add(files / name, name)
                text = tarfile.TarInfo(name.replace(".jpg", ".txt"))
                text.size = 40
                archive.addfile(text, io.BytesIO(b"a" * 40))
    return files, tars


def _tables(files: Path, folder: Path) -> Path:
    """Return a folder of tables with the same files."""
    folder.mkdir()
    names = sorted(file.name for file in files.iterdir())
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    size = NUM_IMAGES // NUM_TARS
    for number in range(NUM_TARS):
        part = names[number * size :][:size]
        rows = [{"bytes": (files / name).read_bytes(), "path": name} for name in part]
        table = pa.table({"image": pa.array(rows, kind)})
        pq.write_table(table, folder / f"train-{number:05}.parquet", row_group_size=100)
    return folder


def _ratio(packed: Path, files: Path) -> float:
    """Return how many times as many images a second of CPU are read."""
    ratios = []
    for _ in range(ROUNDS):
        of_files, of_packed = (_read(str(place))["per_cpu_s"] for place in (files, packed))
        ratios.append(of_packed / of_files)
    return round(statistics.median(ratios), 2)


def _read(images: str) -> dict[str, float]:
    """List a collection, then read and decode it as a worker does."""
    began_s = time.perf_counter()
    table = collect(images, ImageConfig())
    list_s = time.perf_counter() - began_s
    shards = Shards(table, shard_bounds((table.num_rows, SHARD)))
    ahead = ReadAhead(ImagePlaces(roots=None))
    load = partial(load_image, config=ImageConfig(), ahead=ahead, side_px=0, observer=Observer())
    run = RunConfig()
    feed = ImageFeed(load, run.prefetch_threads, run.batch_size)
    began_s, cpu_s, num_images = time.perf_counter(), time.process_time(), 0
    for index in range(len(shards)):
        refs = shards[index].refs
        then = shards[index + 1].refs[: run.batch_size] if index + 1 < len(shards) else ()
        ahead.expect([*refs, *then])
        for batch in feed.batches(refs, then, Stopwatch()):
            num_images += sum(isinstance(image, LoadedImage) for _, image in batch)
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    feed.close()
    if num_images != NUM_IMAGES:
        raise RuntimeError(f"{images}: {num_images} images of {NUM_IMAGES}")
    return {"list_s": list_s, "per_s": num_images / wall_s, "per_cpu_s": num_images / cpu_s}


@contextmanager
def _slow_s3(delay_s: float) -> Iterator[object]:
    """Serve S3 with a delay; the AWS variables of this process name it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    os.environ.update(_AWS)
    with _delaying_proxy(host, port, delay_s) as address:
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket="bucket")
        os.environ["AWS_ENDPOINT_URL"] = address
        yield client
    os.environ.clear()
    os.environ.update(before)
    server.stop()


@contextmanager
def _delaying_proxy(host: str, port: int, delay_s: float) -> Iterator[str]:
    """Pass bytes on; those of a request later."""

    async def passed(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late_s: float
    ) -> None:
        while data := await reader.read(1 << 16):
            if late_s:
                await asyncio.sleep(late_s)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, out = await asyncio.open_connection(host, port)
        await asyncio.gather(passed(reader, out, delay_s), passed(there, writer, 0))

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    started = asyncio.run_coroutine_threadsafe(
        asyncio.start_server(joined, "127.0.0.1", 0), loop
    ).result()
    yield f"http://127.0.0.1:{started.sockets[0].getsockname()[1]}"
    loop.call_soon_threadsafe(started.close)
