"""Which demonstrations a training set has."""

import pytest

from repirl.errors import UserError
from repirl.tasks import arith
from repirl.tasks.training_sets import TrainingSetConfig, load_training_set


def test_a_share_of_the_problems_has_demonstrations() -> None:
    """A quarter, the same each time and within any larger share; problems stay, and the set is another one."""
    sets = {
        share: load_training_set(TrainingSetConfig(num_problems=400, validation_problems=2, demos_share=share))
        for share in (0.0, 0.25, 0.5, 1.0)
    }
    with_any = {share: {key for key, demos in one.demonstrations.items() if demos} for share, one in sets.items()}
    assert [len(with_any[share]) for share in (0.0, 1.0)] == [0, 400]
    assert 75 <= len(with_any[0.25]) <= 125
    assert with_any[0.25] < with_any[0.5]
    assert len({one.digest for one in sets.values()}) == 4
    assert all(one.problems == sets[1.0].problems for one in sets.values())


@pytest.mark.parametrize("style", ["so", arith.OWN_STYLE])
def test_one_phrasing_of_the_expert(style: str) -> None:
    data = load_training_set(TrainingSetConfig(num_problems=20, validation_problems=2, demo_style=style))
    texts = {problem.id: arith.solution(problem.source, style) for problem in data.problems}
    assert {key: [demo.text for demo in demos] for key, demos in data.demonstrations.items()} == {
        key: [text] for key, text in texts.items()
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"demo_style": "loud"}, "unknown arith phrasing"), ({"demo_style": "so", "source": "minicode"}, "only arith's expert")],
)
def test_mistakes(settings: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_training_set(TrainingSetConfig(num_problems=4, validation_problems=2, levels=(1, 2), **settings))
