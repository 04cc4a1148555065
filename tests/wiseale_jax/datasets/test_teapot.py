"""The teapot's mesh, its pictures and the data set, against geometry that is known beforehand."""

import collections

import jax.numpy as jnp
import numpy as np
import pytest

from wiseale_jax.datasets import DATASETS, pipeline, teapot, teapot_mesh, teapot_render

needs_numba = pytest.mark.skipif(not teapot_render.has_numba(), reason="numba is not installed")
SEGMENTS = 4
LINING = 8 * SEGMENTS**2


@pytest.fixture(scope="module")
def mesh():
    return teapot_mesh.tessellate(SEGMENTS)


@pytest.fixture(scope="module")
def views():
    """Poses and colours: the extremes, and random ones."""
    rng = np.random.default_rng(0)
    azimuth = np.concatenate([np.arange(8) * np.pi / 4, rng.uniform(0, 2 * np.pi, 56)])
    elevation = np.concatenate([[0, 0, 0, 0], [np.pi / 2] * 4, rng.uniform(0, np.pi / 2, 56)])
    return azimuth, elevation, rng.uniform(0, 1, (64, 3))


@pytest.fixture(scope="module")
def images(views):
    return teapot_render.render(*views)


def boundary(triangles):
    """Directed edges that no other triangle runs along the other way."""
    edges = collections.Counter(
        (int(triangle[i]), int(triangle[i - 2])) for triangle in triangles for i in range(3)
    )
    assert max(edges.values()) == 1, "two triangles run along an edge the same way"
    return [edge for edge in edges if edge[::-1] not in edges]


def volume(vertices, triangles):
    first, second, third = (vertices[column] for column in triangles.T)
    return np.sum(first * np.cross(second, third)) / 6


def test_control_points_are_newells():
    points = teapot_mesh.control_points().reshape(-1, 3)
    # Figures of the published list of vertices and patches.
    assert len(points) == 32 * 16
    assert len(np.unique(np.round(points, 9) + 0.0, axis=0)) == 290
    np.testing.assert_allclose(points.sum(axis=0), [18.9, 0, 883.275], atol=1e-9)
    np.testing.assert_allclose(np.sum(points**2), 3819.55100025)
    np.testing.assert_allclose(points.min(axis=0), [-3, -2, 0])
    np.testing.assert_allclose(points.max(axis=0), [3.525, 2, 3.15])


def test_mesh_extents(mesh):
    assert len(mesh.triangles) == 64 * SEGMENTS**2 - 8 * SEGMENTS + LINING
    np.testing.assert_allclose(mesh.vertices.min(axis=0), [-3, -2, 0])
    np.testing.assert_allclose(mesh.vertices.max(axis=0), [3.43, 2, 3.15], atol=5e-3)
    lengths = np.linalg.norm(mesh.normals, axis=1)
    lining = np.isin(np.arange(len(lengths)), mesh.triangles[-LINING:])
    np.testing.assert_allclose(lengths, np.where(lining, 0, 1))


def test_mesh_is_closed_but_for_the_tubes_ends(mesh):
    open_edges = boundary(mesh.triangles[:-LINING])
    assert len(open_edges) == 4 * 2 * SEGMENTS
    ends = mesh.vertices[sorted({vertex for edge in open_edges for vertex in edge})]
    mouth = (ends[:, 0] > 2.7) & (ends[:, 2] > 2.3)
    assert mouth.sum() == 2 * SEGMENTS
    x, y, height = ends[~mouth].T
    # The body's outline where neither tube is: along +y, from the foot to the rim.
    outline = teapot_mesh.tessellate(32).vertices
    outline = outline[(outline[:, 0] == 0) & (outline[:, 1] > 1.5)]
    outline = outline[np.argsort(outline[:, 2])]
    # The handle's lower end lies on the body's widest ring, within a hair's breadth.
    assert (np.hypot(x, y) < np.interp(height, outline[:, 2], outline[:, 1]) + 0.01).all()


def test_mesh_faces_outward(mesh):
    piece = 4 * 2 * SEGMENTS**2
    whole = mesh.triangles[:-LINING]
    for triangles in (whole[: -2 * piece], whole[-2 * piece : -piece], whole[-piece:]):
        centre = mesh.vertices[triangles].mean(axis=(0, 1))
        assert volume(mesh.vertices - centre, triangles) > 0
    body = whole[: -2 * piece]
    # The body of revolution is about a cylinder of radius 1.8 and height 2.4.
    np.testing.assert_allclose(volume(mesh.vertices, body), np.pi * 1.8**2 * 2.4, rtol=0.15)


def test_tessellate_checks_segments():
    with pytest.raises(ValueError, match="segments must be at least 1, got 0"):
        teapot_mesh.tessellate(0)


def test_pot_is_inside_the_frame_on_a_plain_ground():
    azimuth, elevation = (
        grid.ravel()
        for grid in np.meshgrid(np.linspace(0, 2 * np.pi, 64), np.linspace(0, np.pi / 2, 16))
    )
    corners, shade = teapot_render.project(azimuth, elevation)
    assert 2 < corners[..., :2].min() and corners[..., :2].max() < 2 * teapot_render.SIZE - 2
    assert 0 < shade.min() and shade.max() <= 1
    images = teapot_render.render(azimuth, elevation, np.ones((len(azimuth), 3)))
    for edge in (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]):
        assert not edge.any()
    covered = (images > 0).mean(axis=(1, 2, 3))
    assert 0.1 < covered.min() and covered.max() < 0.4


def silhouettes(azimuth, elevation):
    color = np.ones((len(azimuth), 3))
    return teapot_render.render(np.array(azimuth), np.array(elevation), color)[..., 0] > 0


def test_spout_and_handle_are_where_they_should_be():
    (picture,) = silhouettes([0.0], [0.0])
    rows, columns = np.nonzero(picture)
    assert columns.min() <= 3 and columns.max() >= 60
    spout, handle = rows[columns == columns.max()], rows[columns == columns.min()]
    assert spout.max() < 32 and len(spout) < len(handle)
    # Left of the body one looks through the handle: onto it, off it and onto the body.
    changes = np.count_nonzero(np.diff(picture[:, :20].astype(int), axis=1), axis=1)
    assert changes.max() == 3


def test_pictures_have_the_pots_symmetries():
    left, right = silhouettes([0.7, np.pi - 0.7], [0.4, 0.4])
    assert (left != right[:, ::-1]).mean() < 1e-3
    before, after = silhouettes([0.3, 0.3 + np.pi / 2], [np.pi / 2] * 2)
    assert (np.rot90(before) != after).mean() < 1e-3


def test_nothing_is_seen_through_gaps(views):
    azimuth, elevation, _ = views
    corners, shade = teapot_render.project(azimuth, elevation)
    triangles = teapot_mesh.tessellate(teapot_render.SEGMENTS).triangles
    one_sided, two_sided = np.zeros((2, len(azimuth), 128, 128))
    teapot_render.rasterise_numpy(corners, shade, triangles, one_sided)
    both = np.concatenate([triangles, triangles[:, ::-1]])
    teapot_render.rasterise_numpy(corners, shade, both, two_sided)
    assert ((one_sided > 0) != (two_sided > 0)).mean() < 1e-5


def test_render_repeats_itself(views, images):
    np.testing.assert_array_equal(teapot_render.render(*views), images)
    part = [argument[5:45] for argument in views]
    np.testing.assert_array_equal(teapot_render.render(*part), images[5:45])


@needs_numba
def test_numba_and_numpy_draw_the_same(views, images):
    compiled = teapot_render.render(*views, rasterise=teapot_render.compile_rasterise())
    plain = teapot_render.render(*views, rasterise=teapot_render.rasterise_numpy)
    np.testing.assert_array_equal(compiled, plain)


def test_whole_turn_changes_nothing(views, images):
    azimuth, elevation, color = views
    np.testing.assert_array_equal(
        teapot_render.render(azimuth + 2 * np.pi, elevation, color), images
    )


def test_pixels_are_linear_in_the_colour(views, images):
    azimuth, elevation, color = views
    white = teapot_render.render(azimuth, elevation, np.ones_like(color))
    assert white.max() < 255
    np.testing.assert_allclose(images, white * color[:, None, None, :], atol=1)
    assert not teapot_render.render(azimuth, elevation, np.zeros_like(color)).any()


def test_factors_are_uniform_and_the_images_follow_them():
    size = 400
    block = teapot.generate(np.random.default_rng(3), size)
    for name, high in teapot.FACTORS.items():
        values = block[name] / high
        assert block[name].dtype == np.float32 and values.shape == (size,)
        assert 0 <= values.min() < 0.02 and 0.98 < values.max() <= 1
        # Five standard deviations of the mean of uniform draws.
        assert abs(values.mean() - 0.5) < 5 / np.sqrt(12 * size)
    assert block["image"].shape == (size, 64, 64, 3) and block["image"].dtype == np.uint8
    for channel, name in enumerate(("red", "green", "blue")):
        brightest = block["image"][..., channel].max(axis=(1, 2))
        assert np.corrcoef(brightest, block[name])[0, 1] > 0.99


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teapot, "SPLITS", {"train": 50, "validation": 10, "test": 10})
        patch.setattr(teapot, "_BLOCK", 20)
        yield pipeline.prepare("teapot", tmp_path_factory.mktemp("data"))


def test_prepared_data_set(prepared):
    names = [DATASETS["teapot"].feature, *DATASETS["teapot"].factors]
    arrays = {split: pipeline.load_arrays(prepared, split, names) for split in teapot.SPLITS}
    train = arrays["train"]
    assert train["image"].shape == (50, 64, 64, 3) and train["image"].dtype == np.uint8
    color = np.stack([train[name] for name in ("red", "green", "blue")], axis=1)
    again = teapot_render.render(train["azimuth"], train["elevation"], color)
    np.testing.assert_array_equal(train["image"], again)
    azimuths = np.concatenate([arrays[split]["azimuth"] for split in teapot.SPLITS])
    assert len(np.unique(azimuths)) == 70


def test_whole_split_fits_in_memory(prepared):
    per_example = prepared.info.splits["train"].num_bytes / 50
    # Where a split has more than 1000 MiB, tfds sorts on disk, with TensorFlow.
    assert per_example * 160_000 < 500 * 2**20


def test_preprocessing_scales_to_the_unit_interval():
    x = DATASETS["teapot"].preprocess(jnp.array([0, 51, 255], jnp.uint8), None)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, [0, 0.2, 1])


def test_without_numba_one_is_told_and_gets_the_same(monkeypatch, capsys, tmp_path, views, images):
    monkeypatch.setattr(teapot_render, "has_numba", lambda: False)
    part = [argument[:4] for argument in views]
    np.testing.assert_array_equal(teapot_render.render(*part), images[:4])
    monkeypatch.setattr(teapot, "SPLITS", {"train": 4})
    pipeline.prepare("teapot", tmp_path)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "pip install numba" in line)
    assert "minutes" in line
