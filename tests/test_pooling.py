"""One-pass statistics equal those of numpy over all rows, in any order and chunking."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from fervid.analysis.pooling import POOLED_OUTPUTS, STATISTICS, FeaturePooler, RunningStats, to_logits
from fervid.core.records import FaceOutputs


def expected(rows: np.ndarray) -> dict[str, np.ndarray]:
    rows = rows.astype(np.float64)
    return {"mean": rows.mean(0), "std": rows.std(0), "min": rows.min(0), "max": rows.max(0)}


def chunks(rows: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
    start = 0
    while start < len(rows):
        size = int(random.integers(0, 40))
        yield rows[start : start + size]
        start += size


def pooled(*parts: np.ndarray) -> RunningStats:
    pool = RunningStats()
    for part in parts:
        pool.update(part)
    return pool


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = 1e-6) -> None:
    assert list(actual) == list(STATISTICS)
    for name, value in expected.items():
        assert actual[name].dtype == np.float32
        assert actual[name] == pytest.approx(value.astype(np.float32), rel=tolerance, abs=1e-7), name


def scores(*rows: list[float]) -> FaceOutputs:
    """Return faces; each row is two values of embedding, two of expression, age and gender."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return FaceOutputs(table[:, :2], table[:, 2:4], table[:, 4], table[:, 5], table[:, 2:4], table[:, :2])


def table(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 1000])
@pytest.mark.parametrize("seed", range(2))
def test_chunks_of_any_size_give_same_statistics(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(3, 10, (count, 4)).astype(np.float32)
    pool = pooled(*chunks(rows, random))
    assert pool.count == count
    assert_same(pool.statistics(), expected(rows))


@pytest.mark.parametrize("seed", range(2))
def test_merging_in_any_order_gives_same_statistics(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(-2, 5, (300, 4)).astype(np.float32)
    parts = [pooled(part) for part in chunks(rows, random)]
    whole = RunningStats()
    for i in random.permutation(len(parts)):
        whole.merge(parts[i])
    assert whole.count == 300
    assert_same(whole.statistics(), expected(rows))


def test_merge_leaves_other_unchanged() -> None:
    rows = table(7)
    part, whole = pooled(rows), RunningStats()
    whole.merge(part)
    whole.update(table(9, seed=1))
    assert part.count == 7
    assert_same(part.statistics(), expected(rows))


@pytest.mark.parametrize("step", [1, 7])
def test_large_nearly_equal_values_keep_their_deviation(step: int) -> None:
    noise = np.random.default_rng(2).normal(0, 1e-3, (500, 4))
    rows = 1e6 + noise
    found = pooled(*(rows[i : i + step] for i in range(0, 500, step))).statistics()
    assert found["std"] == pytest.approx(noise.std(0), rel=1e-5)
    assert found["mean"] == pytest.approx(1e6)


def test_float32_rows_are_summed_in_float64() -> None:
    noise = np.random.default_rng(2).normal(0, 1, (2000, 4))
    rows = (1e6 + noise).astype(np.float32)
    assert_same(pooled(*np.split(rows, 40)).statistics(), expected(rows), 1e-6)


@pytest.mark.parametrize("value", [-3.5, 0.1, 1e30])
def test_equal_rows_have_no_deviation(value: float) -> None:
    found = pooled(*[np.full((n, 4), value, np.float32) for n in (1, 3, 2)]).statistics()
    assert found["std"] == pytest.approx(0, abs=abs(value) * 1e-7)
    assert found["min"].tolist() == found["max"].tolist() == found["mean"].tolist() == [np.float32(value)] * 4


def test_zero_rows_change_nothing() -> None:
    rows = table(3)
    pool = pooled(np.zeros((0, 6), np.float32), rows, np.zeros((0, 6), np.float32))
    pool.merge(RunningStats())
    assert pool.count == 3
    assert_same(pool.statistics(), expected(rows))


def test_empty_pool_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="empty pool"):
        pooled(np.zeros((0, 4), np.float32)).statistics()
    with pytest.raises(ValueError, match="at least one observation"):
        FeaturePooler().features()
    with pytest.raises(ValueError, match="at least one observation"):
        FeaturePooler.combine([FeaturePooler()]).features()


def test_features_are_named_by_column_and_statistic() -> None:
    pool = FeaturePooler()
    pool.update_group(scores([1, 2, 0.25, 0.75, 30, 0.9]))
    pool.update_group(scores([3, 2, 0.75, 0.25, 34, 0.7]))
    features = pool.features()
    assert features.count == pool.count == 2
    assert set(features.statistics) >= {f"{column}.{kind}" for column in POOLED_OUTPUTS for kind in STATISTICS}
    assert features.statistics["embedding.mean"].tolist() == [2, 2]
    assert features.statistics["embedding.std"].tolist() == [1, 0]
    assert features.statistics["expression.max"].tolist() == [0.75, 0.75]
    assert features.statistics["age.min"].tolist() == [30]
    assert features.statistics["gender.mean"] == pytest.approx([0.8])


def test_groups_are_pooled_over_faces_then_frames() -> None:
    frames = [table(3, seed=1), table(1, seed=2), table(0), table(4, seed=3)]
    pool = FeaturePooler()
    for frame in frames:
        pool.update_group(scores(*frame.tolist()))
    features = pool.features()
    assert features.count == 3
    plain = {f"{column}.{kind}" for column in POOLED_OUTPUTS for kind in STATISTICS}
    spread = {f"{column}.across_faces.{kind}" for column in POOLED_OUTPUTS for kind in STATISTICS}
    assert set(features.statistics) == plain | spread
    means = np.stack([frame.mean(0) for frame in frames if len(frame)])
    spreads = np.stack([frame.std(0) for frame in frames if len(frame)])
    for kind in STATISTICS:
        for name, columns in (("embedding", slice(0, 2)), ("expression", slice(2, 4)), ("age", slice(4, 5))):
            true = expected(means)[kind][columns]
            assert features.statistics[f"{name}.{kind}"] == pytest.approx(true, rel=1e-5, abs=1e-6)
            true = expected(spreads)[kind][columns]
            assert features.statistics[f"{name}.across_faces.{kind}"] == pytest.approx(true, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("faces", "count"), [(0, 0), (1, 1), (3, 1)])
def test_frame_of_group_counts_once(faces: int, count: int) -> None:
    pool = FeaturePooler()
    pool.update_group(scores(*table(faces).tolist()))
    assert pool.count == count


def test_one_face_in_a_frame_has_no_spread() -> None:
    pool = FeaturePooler()
    pool.update_group(scores(*table(1).tolist()))
    assert pool.features().statistics["embedding.across_faces.max"].tolist() == [0, 0]


def test_combined_parts_equal_whole() -> None:
    frames = [scores(*table(n, seed=n).tolist()) for n in (2, 5, 1, 3)]
    whole, first, second = FeaturePooler(), FeaturePooler(), FeaturePooler()
    for i, frame in enumerate(frames):
        whole.update_group(frame)
        (first, second)[i % 2].update_group(frame)
    for parts in ([first, second], [second, FeaturePooler(), first], iter([first, second])):
        combined = FeaturePooler.combine(parts).features()
        assert combined.count == whole.count
        assert combined.statistics.keys() == whole.features().statistics.keys()
        for name, value in whole.features().statistics.items():
            assert combined.statistics[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_combine_leaves_its_parts_unchanged() -> None:
    part = FeaturePooler()
    part.update_group(scores(*table(3).tolist()))
    FeaturePooler.combine([part]).update_group(scores(*table(5).tolist()))
    assert part.count == 1


def test_missing_outputs_have_no_statistics() -> None:
    rows, nothing = np.float32([[1, 2], [3, 4]]), np.zeros((2, 0), np.float32)
    pool = FeaturePooler()
    pool.update_group(FaceOutputs(rows, rows, nothing, nothing, nothing, nothing))
    pool.update_group(FaceOutputs(*[np.zeros((0, width), np.float32) for width in (2, 2, 0, 0, 0, 0)]))
    found = pool.features().statistics
    assert {name.partition(".")[0] for name in found} == {"embedding", "expression", "logit"}
    assert found["embedding.mean"].tolist() == [2, 3]
    assert found["expression.across_faces.mean"].tolist() == [1, 1]


def test_logits_are_recovered_up_to_a_constant() -> None:
    logits = np.float32([[3, 0, -1.5], [0, 0, 0], [-20, 1, 2]])
    shifted = np.exp(logits + 5)
    found = to_logits(np.float32(shifted / shifted.sum(axis=1, keepdims=True)))
    expected = logits - logits.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found[:2], expected[:2], atol=1e-5)
    assert found[2, 0] == pytest.approx(
        (np.log(1e-6) * 2 - np.log(1 / (1 + np.e)) - np.log(np.e / (1 + np.e))) / 3, rel=1e-3
    )
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-5)
