import numpy as np

from larq_seresnet.training.study import figures, pruning


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


def test_the_legend_of_all_arms_is_within_the_picture(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(figures, "save", lambda figure, path: seen.append(figure))
    labels = pruning.LABELS.values()
    points = {label: (10_000 + at, np.array([0.1, 0.2])) for at, label in enumerate(labels)}
    figures.draw_bytes(points, tmp_path / "pruning")
    (figure,) = seen
    figure.draw_without_rendering()
    (legend,) = figure.legends
    place, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= place.x0 < place.x1 <= page.x1
    assert page.y0 <= place.y0 < place.y1 <= page.y1
    assert figure.axes[0].get_window_extent().height > 0.4 * page.height
