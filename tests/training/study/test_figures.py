import numpy as np

from larq_seresnet.training.study import figures


def test_no_two_arms_look_alike():
    for styles in (figures.STYLES, figures.MARKERS):
        found = [(colour, style) for _, colour, style in figures.looks(range(30), styles)]
        assert len(set(found)) == 30


def test_arms_without_runs_take_no_colour(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(figures, "save", lambda figure, path: seen.append(figure))
    points = {str(arm): {} for arm in range(8)} | {"run": {6: np.array([0.2, 0.3])}}
    figures.draw_budgets(points, {6: 0.3}, tmp_path / "budgets")
    (axes,) = seen[0].axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert drawn["run"].get_color() == figures.COLOURS[0]
    assert list(drawn["run"].get_ydata()) == [25.0]
    assert not set(drawn) & set(map(str, range(8)))
