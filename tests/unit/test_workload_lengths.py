"""Length distributions and named data sets: moments, bounds, joint structure."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from pagesim import catalog
from pagesim.errors import ConfigError
from pagesim.workload import stream
from pagesim.workload.datasets import Pairs, dataset
from pagesim.workload.lengths import Constant, Gamma, Lengths, Lognormal, Quantiles, Uniform

COUNT = 200_000
ROOT = Path(__file__).parents[2]
TABLED = [entry.name for entry in catalog.lengths() if "table" in catalog.lengths_entry(entry.name)]


def sample(lengths: Lengths, count: int = COUNT) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    found = lengths.sample(count, stream(3, "prompts"))
    assert found.dtype == np.int64
    assert found.shape == (count,)
    return found


def pairs(name: str, count: int = COUNT) -> Pairs:
    return dataset(name).start(stream(3, "prompts"), stream(3, "outputs"))(count)


@pytest.mark.parametrize("kind", [Lognormal, Gamma])
def test_mean_and_variation_are_what_was_asked_for(kind: type[Lognormal] | type[Gamma]) -> None:
    found = sample(kind(mean=500, cv=0.6))
    assert found.mean() == pytest.approx(500, rel=0.01)
    assert found.std() / found.mean() == pytest.approx(0.6, rel=0.02)


@pytest.mark.parametrize("kind", [Lognormal, Gamma])
def test_without_variation_all_lengths_are_the_mean(kind: type[Lognormal] | type[Gamma]) -> None:
    assert set(sample(kind(mean=37, cv=0), 100)) == {37}


@pytest.mark.parametrize("kind", [Lognormal, Gamma])
def test_lengths_beyond_a_bound_become_it(kind: type[Lognormal] | type[Gamma]) -> None:
    free, bound = sample(kind(mean=500, cv=2)), sample(kind(mean=500, cv=2, low=100, high=900))
    assert np.array_equal(bound, np.clip(free, 100, 900))
    assert {100, 900} <= set(bound)


def test_lengths_are_at_least_one_and_at_most_a_thousand_million() -> None:
    found = sample(Lognormal(mean=1e9, cv=1000), 10_000)
    assert (found.min(), found.max()) == (1, 10**9)
    assert set(sample(Gamma(mean=0.001, cv=1), 100)) == {1}


def test_uniform_takes_every_length_equally_often() -> None:
    values, counts = np.unique(sample(Uniform(low=3, high=6)), return_counts=True)
    assert values.tolist() == [3, 4, 5, 6]
    assert counts / COUNT == pytest.approx(np.full(4, 0.25), abs=0.005)


def test_constant_is_constant() -> None:
    assert set(sample(Constant(value=9), 10)) == {9}


def test_quantiles_are_linear_between_their_points() -> None:
    table = Quantiles(quantiles=[10, 20, 40], probabilities=[0, 0.5, 1])
    assert table.at(np.array([0, 0.25, 0.5, 0.75, 1])).tolist() == [10, 15, 20, 30, 40]
    assert table.mean == 0.5 * 15 + 0.5 * 30
    assert sample(table).mean() == pytest.approx(22.5, rel=0.01)
    assert Quantiles(quantiles=[1, 2, 4]).probabilities.tolist() == [0, 0.5, 1]
    assert Quantiles(quantiles=[10, 40], low=20, high=30).at(np.array([0, 0.5, 1])).tolist() == [20, 25, 30]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Lognormal(mean=0, cv=1), "mean must be above 0"),
        (lambda: Gamma(mean=5, cv=-1), "cv at least 0, not 5 and -1"),
        (lambda: Uniform(low=5, high=4), "low and high: must be 1 <= low <= high"),
        (lambda: Constant(value=0), "low and high: must be 1 <= low"),
        (lambda: Quantiles(quantiles=[5]), "must be two or more, and as many of both; are 1 and 1"),
        (lambda: Quantiles(quantiles=[5, 4]), "quantiles: must be lengths from 1 that do not decrease"),
        (lambda: Quantiles(quantiles=[0, 4]), "quantiles: must be lengths from 1 that do not decrease"),
        (lambda: Quantiles(quantiles=[1, 4], probabilities=[0, 0.9]), "probabilities: must increase from 0 to 1"),
        (lambda: Quantiles(quantiles=[1, float("nan")]), "quantiles: must be a list of numbers"),
        (lambda: Quantiles(quantiles="abc"), "quantiles: must be a list of numbers"),  # type: ignore[arg-type]
    ],
)
def test_a_distribution_that_is_none_is_refused(build: type, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize(
    ("name", "prompt", "output"), [("sharegpt", 161.31, 337.99), ("alpaca", 19.31, 58.45)], ids=["sharegpt", "alpaca"]
)
def test_fitted_shapes_have_the_published_means(name: str, prompt: float, output: float) -> None:
    """Means of Kwon et al. 2023, figure 11; no total above 2,048 tokens."""
    prompts, outputs = pairs(name, 400_000)
    assert prompts.mean() == pytest.approx(prompt, rel=0.01)
    assert outputs.mean() == pytest.approx(output, rel=0.01)
    assert (prompts + outputs).max() <= 2048
    assert min(prompts.min(), outputs.min()) == 1


def test_running_requests_of_sharegpt_are_longer_than_the_mean() -> None:
    """A request runs as long as its output: the length-biased mean lies in 717 to 757 (figures 2 and 13)."""
    prompts, outputs = pairs("sharegpt", 400_000)
    assert 717 < np.average(prompts + outputs - 1, weights=outputs) < 757


@pytest.mark.parametrize("name", TABLED)
def test_tables_keep_means_and_rank_correlation(name: str) -> None:
    table = catalog.length_table(catalog.lengths_entry(name)["table"])
    prompts, outputs = pairs(name)
    assert prompts.mean() == pytest.approx(table.prompt_mean, rel=0.02)
    assert outputs.mean() == pytest.approx(table.output_mean, rel=0.02)
    assert stats.spearmanr(prompts, outputs).statistic == pytest.approx(table.rank_correlation, abs=0.02)


def test_tables_keep_what_a_correlation_cannot_say() -> None:
    """Azure's chat service answers long prompts three times as long as middling ones, at a rank correlation of 0.03."""
    prompts, outputs = pairs("azure-conversation")
    low, middle, high = np.quantile(prompts, [0.1, 0.4, 0.9])
    middling = np.median(outputs[(prompts > low) & (prompts < middle)])
    assert np.median(outputs[(prompts > middle * 1.2) & (prompts < high)]) > 3 * middling


@pytest.mark.parametrize(("name", "max_total"), [("sharegpt-8k", 8192), ("arxiv-summarization", 4096)])
def test_tables_keep_the_limit_of_their_data(name: str, max_total: int) -> None:
    prompts, outputs = pairs(name)
    assert (prompts + outputs).max() <= max_total
    assert outputs.min() >= 1


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown dataset 'sharegbt'; did you mean 'sharegpt'"):
        dataset("sharegbt")


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_length_tables", ROOT / "scripts" / "build_length_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_what_the_script_computes(builder: ModuleType, traces_dir: Path) -> None:
    text = builder.build(traces_dir)
    assert text == (ROOT / "pagesim" / "catalog" / "length_tables.yaml").read_text(encoding="utf-8")


def test_the_script_knows_the_rank_correlation(builder: ModuleType) -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(1, 50, 500)
    second = first + rng.integers(0, 60, 500)
    assert builder.rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


def test_the_script_refuses_other_files(
    builder: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "azure_2023_conv.first40min.csv.gz").write_bytes(b"other")
    arguments = ["script", str(tmp_path), str(tmp_path / "out.yaml")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", arguments)
        assert builder.main() == 2
    assert "its checksum differs" in capsys.readouterr().err
    assert not (tmp_path / "out.yaml").exists()
