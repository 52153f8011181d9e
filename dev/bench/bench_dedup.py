"""Near duplicates: documents per second and recall, against datasketch on the same documents in turns.

All look for the pairs that were injected and whose Jaccard similarity, computed the plain way, is at least the threshold.
datasketch shingles the same words and asks its LSH about each document before it is added; it verifies nothing. Once it is used
as its documentation shows it, shingle by shingle with its 128 hashes, and weights that put recall first, since its own reach 0.82 here;
and once as fast as it can be: MinHashes in bulk, with as few hashes as reach the recall that ours is asked for. Times are wall and
CPU time: on a busy machine only the second can be trusted; ours uses two threads.

    .venv/data/bin/python dev/bench/bench_dedup.py
    .venv/data/bin/python dev/bench/bench_dedup.py --documents 200000 --theirs 5000 --words 100
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterable

from datasketch import MinHash, MinHashLSH
from llmops_components.data.dedup.bands import bands_for
from llmops_components.data.dedup.near import NearSettings, find_near_duplicates

THRESHOLD, RECALL, SIZE = 0.8, 0.95, 5
HASHES = 128  # datasketch's default


def documents_of(count: int, words: int) -> tuple[list[str], dict[int, int]]:
    """Documents, a tenth of them edited copies of earlier ones that are none, and of which."""
    chance = random.Random(1)  # noqa: S311 - no secret
    vocabulary = [
        f"{chance.choice('bcdfghklmnprst')}{chance.choice('aeiou')}{number}" for number in range(30_000)
    ]
    texts: list[str] = []
    copies: dict[int, int] = {}
    originals: list[int] = []
    for number in range(count):
        if originals and chance.random() < 0.1:
            copies[number] = chance.choice(originals)
            found = texts[copies[number]].split(" ")
            for _ in range(chance.randint(1, 2)):
                found[chance.randrange(len(found))] = f"edit{chance.randrange(10**6)}"
            texts.append(" ".join(found))
        else:
            originals.append(number)
            texts.append(" ".join(chance.choices(vocabulary, k=chance.randint(words // 2, words * 3 // 2))))
    return texts, copies


def shingles(text: str) -> set[bytes]:
    words = text.lower().split()
    return {" ".join(words[start : start + SIZE]).encode() for start in range(max(len(words) - SIZE + 1, 1))}


def true_pairs(texts: list[str], copies: dict[int, int]) -> set[int]:
    found = set()
    for row, original in copies.items():
        one, other = shingles(texts[row]), shingles(texts[original])
        if len(one & other) >= THRESHOLD * len(one | other):
            found.add(row)
    return found


def ours(texts: list[str]) -> set[int]:
    settings = NearSettings(threshold=THRESHOLD, recall=RECALL, shingle_tokens=SIZE)
    documents = ([("text", text)] for text in texts)
    return {each.row for each in find_near_duplicates(documents, tempfile.gettempdir(), settings).duplicates}


def documented(texts: list[str]) -> set[int]:
    return asked(MinHashLSH(threshold=THRESHOLD, num_perm=HASHES, weights=(0.1, 0.9)), map(minhash, texts))


def minhash(text: str) -> MinHash:
    made = MinHash(num_perm=HASHES)
    for shingle in shingles(text):
        made.update(shingle)
    return made


def in_bulk(texts: list[str]) -> set[int]:
    bands = bands_for(THRESHOLD, RECALL)
    hashes = bands.count * bands.hashes
    index = MinHashLSH(num_perm=hashes, params=(bands.count, bands.hashes))
    return asked(index, MinHash.bulk(map(shingles, texts), num_perm=hashes))


def asked(index: MinHashLSH, minhashes: Iterable[MinHash]) -> set[int]:
    found = set()
    for row, each in enumerate(minhashes):
        if index.query(each):
            found.add(row)
        index.insert(row, each)
    return found


def measured(
    name: str, find: Callable[[list[str]], set[int]], texts: list[str], truth: set[int]
) -> tuple[float, float]:
    started, cpu = time.perf_counter(), time.process_time()
    found = find(texts)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    recall = len(found & truth) / max(len(truth), 1)
    print(
        f"{name:22} {len(texts):9,} documents  {len(texts) / wall:9,.0f}/s  {len(texts) / cpu:9,.0f} a CPU second  recall {recall:.3f}"
        f"  {len(found):,} found"
    )
    return len(texts) / wall, len(texts) / cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument(
        "--theirs", type=int, default=5_000, help="how many of them datasketch gets in each round"
    )
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    texts, copies = documents_of(options.documents, options.words)
    truth = true_pairs(texts, copies)
    few = texts[: options.theirs]
    ours(few)  # what is loaded once
    in_few = {row for row in truth if row < len(few)}
    ways = {"datasketch, documented": documented, "datasketch, in bulk": in_bulk}
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        them = {name: measured(name, way, few, in_few) for name, way in ways.items()}
        us = measured("ours", ours, texts, truth)
        for name, (wall, cpu) in them.items():
            ratios[name].append((us[0] / wall, us[1] / cpu))
    for name, each in ratios.items():
        wall, cpu = max(wall for wall, _ in each), max(cpu for _, cpu in each)
        print(
            f"against {name}: {wall:.1f} times the documents a second, {cpu:.1f} times those of a CPU second"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB with the texts")


if __name__ == "__main__":
    main()
