"""Which images are drawn."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from knapsack_prune.data import calibration_loader, open_source
from knapsack_prune.data.sampling import balanced_subset, hold_out
from knapsack_prune.data.schedule import BatchSchedule


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 60), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_classes_are_dealt_evenly_until_they_run_out(sizes: list[int], samples: int, seed: int) -> None:
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    drawn = balanced_subset(labels, samples, seed)
    assert len(drawn) == len(set(drawn.tolist())) == min(samples, len(labels))
    counts = torch.bincount(labels[drawn], minlength=len(sizes)).tolist()
    # A class has fewer than another by more than one only if it has no more images.
    assert all(count >= max(counts) - 1 or count == size for count, size in zip(counts, sizes, strict=True))


def test_the_calibration_set_is_balanced_shuffled_and_seeded() -> None:
    # A class-sorted prefix of the training folder would show the first classes only.
    def labels(seed: int) -> list[int]:
        return torch.cat([labels for _, labels in calibration_loader("digits", 100, seed, 32)]).tolist()

    first = labels(0)
    assert torch.bincount(torch.tensor(first)).tolist() == [10] * 10
    assert len(set(first[:20])) >= 6
    assert labels(0) == first != labels(1)


def test_the_digits_arrive_as_they_were_trained_on() -> None:
    from knapsack_prune.data.digits import load_digits

    images, _ = load_digits("train")
    loader = calibration_loader("digits", len(images), 0, 500)
    found = torch.cat([batch for batch, _ in loader])
    assert torch.equal(found.sum(dim=(1, 2, 3)).sort().values, images.sum(dim=(1, 2, 3)).sort().values)


def test_held_out_images_are_never_trained_on() -> None:
    labels = open_source("digits").train.labels
    train, held = hold_out(labels, 0.1, 0)
    assert len(held) == round(0.1 * len(labels))
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(len(labels)))


def test_two_processes_see_in_a_step_what_one_sees_with_twice_the_accumulation() -> None:
    def seen(processes: int, accumulate: int) -> list[set[int]]:
        ranks = [BatchSchedule(50, 4, 7, processes, rank, accumulate) for rank in range(processes)]
        batches = [[set(batch.tolist()) for batch in rank.batches(epoch=3)] for rank in ranks]
        steps = ranks[0].steps
        assert steps == 50 // (4 * processes * accumulate)
        return [
            set().union(*(mine[step * accumulate + turn] for mine in batches for turn in range(accumulate)))
            for step in range(steps)
        ]

    assert seen(2, 1) == seen(1, 2)
    assert seen(2, 2) == seen(1, 4)


def test_an_epoch_continues_where_it_was_left() -> None:
    schedule = BatchSchedule(40, 4, 0, processes=2, rank=1, accumulate=2)
    whole = [batch.tolist() for batch in schedule.batches(1)]
    assert [batch.tolist() for batch in schedule.batches(1, first_step=1)] == whole[2:]
