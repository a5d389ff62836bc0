"""Watch the trained policy: `python -m pgx.play RUN_DIR` writes one episode as an animated picture.

The pictures are the environment's own, drawn without a display, and run at its real speed. Where a compiled environment
has none (gymnax's), it is shown in the environment of the same name in Gymnasium, with the run's env.params. A run that
W&B has gets the film there as well.
"""

import io
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops

from pgx import parts
from pgx.config import whole
from pgx.envs.checks import tell_mujoco_where
from pgx.errors import ConfigError, one_line
from pgx.runs.files import write_atomically
from pgx.runs.restore import Arguments, read_as, read_run, short_errors, title, trained
from pgx.runs.tracker import WandbTracker, id_of, of_run

if TYPE_CHECKING:
    import gymnasium

SUFFIXES = (".webp", ".gif")
WIDTH = 480
"""Pixels before the margins are cut off; the height follows."""
MARGIN = 12
"""Pixels that are left around what is not background in any picture."""
FRAMES_PER_SECOND = 25
"""The most there are; an environment with more steps a second is shown every second or third step."""
PAUSE = 1000
"""Milliseconds on the last picture, before the film starts again."""


class Filmed:
    """One lane of a Gymnasium environment, as HostRollout wants it (see HostEnv), that takes pictures of itself.

    After the end of the episode nothing more is taken.
    """

    def __init__(self, env: "gymnasium.Env", spec: Any, progress: Any):
        self._env, self.spec, self._progress = env, spec, progress
        self.num_lanes = 1
        self._actions = env.action_space
        self._steps_a_second = env.metadata.get("render_fps") or 30
        self._steps_a_frame = max(1, round(self._steps_a_second / FRAMES_PER_SECOND))
        self.frames: list[Image.Image] = []
        self.steps = 0

    @property
    def durations(self) -> list[int]:
        """Milliseconds that each frame is shown."""
        usual = round(1000 * self._steps_a_frame / self._steps_a_second)
        return [usual] * (len(self.frames) - 1) + [usual + PAUSE]

    @property
    def seconds(self) -> float:
        return self.steps / self._steps_a_second

    def reset(self, seed):
        obs, _ = self._env.reset(seed=seed)
        self._take()
        return np.asarray(obs, np.float32)[None]

    def step(self, action):
        from pgx.envs.gymnasium import as_declared  # jax is imported by then

        obs, reward, terminated, truncated, _ = self._env.step(as_declared(self._actions, action)[0])
        self.steps += 1
        self._progress.update()
        if terminated or truncated or self.steps % self._steps_a_frame == 0:
            self._take()
        return np.asarray(obs, np.float32)[None], np.array([reward]), np.array([terminated]), np.array([truncated])

    def _take(self) -> None:
        picture = Image.fromarray(self._env.render())
        if picture.width > WIDTH:
            picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.BOX)
        self.frames.append(picture)


def cut(frames: list[Image.Image]) -> list[Image.Image]:
    """The pictures without the background around all that is ever drawn: half of CartPole's is empty."""
    background = Image.new("RGB", frames[0].size, frames[0].getpixel((0, 0)))
    boxes = [box for frame in frames if (box := ImageChops.difference(frame, background).getbbox())]
    if not boxes:
        return frames
    left, top, right, bottom = zip(*boxes, strict=True)
    width, height = frames[0].size
    start = max(0, min(left) - MARGIN), max(0, min(top) - MARGIN)
    box = (*start, min(width, max(right) + MARGIN), min(height, max(bottom) + MARGIN))
    return [frame.crop(box) for frame in frames]


def make(config: dict[str, Any]) -> "gymnasium.Env":
    """The Gymnasium environment of this env section, ready to be drawn. Raises ConfigError where there is none."""
    os.environ |= {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
    import gymnasium

    id, params = config["id"], dict(config.get("params", {}))
    limit = config.get("max_steps") or params.pop("max_steps_in_episode", None)
    if id not in gymnasium.registry and ":" not in id:
        raise ConfigError("env.id", f"{id} has no renderer: Gymnasium does not know it", hint="pgx.evaluate needs none")
    tell_mujoco_where(id)
    try:
        with warnings.catch_warnings(action="ignore"):  # of a missing render mode: the line below says it
            env = gymnasium.make(
                id,
                render_mode="rgb_array",
                max_episode_steps=limit and int(limit),
                disable_env_checker=True,
                **config.get("kwargs", {}),
            )
            env.reset(seed=0)
            picture = env.render()
    except Exception as error:  # an environment's own code may raise anything
        raise _not_drawn(id, error) from error
    if getattr(picture, "ndim", None) != 3:
        raise ConfigError("env.id", f"{id} cannot be drawn: it has no render mode rgb_array")
    set_parameters(env.unwrapped, params)
    return gymnasium.wrappers.FlattenObservation(env)  # as GymnasiumEnv does


def make_compiled(env: Any) -> "gymnasium.Env":
    """A compiled environment that draws itself, ready to be drawn. Raises ConfigError if it cannot."""
    from pgx.envs.stage import Stage

    try:
        stage = Stage(env)
        stage.reset(seed=0)
        stage.render()
    except ConfigError:
        raise
    except Exception as error:  # as above
        raise _not_drawn(env.spec.id, error) from error
    return stage


def _not_drawn(id: str, error: Exception) -> ConfigError:
    needs = "MUJOCO_GL=egl needs libEGL (Debian: libegl1), MUJOCO_GL=osmesa needs libOSMesa (libosmesa6)"
    return ConfigError("env.id", f"{id} cannot be drawn: {one_line(error)}", hint=needs if "mujoco" in sys.modules else None)


def set_parameters(env: "gymnasium.Env", params: dict[str, float]) -> None:
    """The run's env.params: gymnax names its numbers as Gymnasium does, but for capitals. Raises ConfigError."""
    for name, value in params.items():
        attribute = next((attribute for attribute in (name, name.upper()) if hasattr(env, attribute)), None)
        if attribute is None:
            raise ConfigError(f"env.params.{name}", "Gymnasium's environment has no such number: it would show another policy")
        setattr(env, attribute, value)


def play(
    folder: Path, config: dict[str, Any], *, seed: int = 0, greedy: bool = False, best: bool = False
) -> tuple[int, float, Filmed]:
    """(the checkpoint's update, return, film) of one episode. Raises what `make` and `trained` raise."""
    if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # before MuJoCo is imported
    draws_itself = parts.defines(config["env"]["_target_"], "renderer", beside="pgx.envs.base.JittedEnv")
    stage = None if draws_itself else make(config["env"])
    env, policy, key, update = trained(folder, config, best=best)
    stage = stage or make_compiled(env)

    import jax
    from tqdm import tqdm

    from pgx.envs.base import HostEnv
    from pgx.rollout import HostRollout

    HostEnv.register(Filmed)  # not its base class, which would import jax with this module
    bar = tqdm(total=env.spec.max_steps, unit="step", desc="playing", leave=False, dynamic_ncols=True, disable=None)
    with bar:
        film = Filmed(stage, env.spec, bar)
        episode = HostRollout(film, 1, greedy=greedy)(policy, jax.random.fold_in(key, seed))
    stage.close()
    film.frames = cut(film.frames)
    return update, float(episode.reward.sum()), film


def save(film: Filmed, path: Path) -> None:
    """WebP or GIF by the suffix, in an endless loop; the old file stays until the new one is whole."""
    frames, content = film.frames, io.BytesIO()
    options = {"format": "WEBP", "quality": 75, "method": 4}
    if path.suffix.lower() == ".gif":
        # One palette for all frames: what does not move is then the same in all, and is stored once.
        # The octree keeps white white; the median cut makes it pink.
        palette = _side_by_side([frames[0], frames[len(frames) // 2], frames[-1]]).quantize(64, Image.Quantize.FASTOCTREE)
        frames, options = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames], {"format": "GIF"}
    frames[0].save(content, save_all=True, append_images=frames[1:], duration=film.durations, loop=0, **options)
    write_atomically(path, content.getvalue())


def track(film: Filmed, folder: Path, summary: dict[str, Any]) -> bool:
    """Put the film into the run's W&B run, if it has one: as a further part of it, like those of a resumed run.

    Whether that is online is for the environment to say (WANDB_MODE), not for the folder.
    """
    id = id_of(summary)
    if id is None or not any(folder.glob(f"wandb/*run-*/run-{id}.wandb")):
        return False
    settings = summary["config"]["tracker"]
    tracker = WandbTracker(project=settings.get("project"), entity=settings.get("entity"))
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "play.gif"  # W&B shows no WebP
        save(film, path)
        tracker.start(folder=folder, **of_run(summary))
        tracker.video("play", path, summary["env_steps"])
        tracker.finish(summary, 0 if summary["status"] == "completed" else 1)
    return True


def _side_by_side(frames: list[Image.Image]) -> Image.Image:
    return Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames], axis=1))


def _check_out(path: Path) -> Path:
    """Raise ConfigError unless this file can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            "--out", f"{path} is no animated picture that can be written", f"a name that ends in {' or '.join(SUFFIXES)}"
        )
    if not os.access(path.parent, os.W_OK) or path.is_dir():
        raise ConfigError("--out", f"cannot write {path}", "a file in a folder that can be written")
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    with short_errors():
        parser = Arguments("play", __doc__)
        parser.add_argument("--out", metavar="FILE", type=Path, help="a .webp or .gif (default: RUN_DIR/play.webp)")
        parser.choose_policy()
        seed = read_as(whole(0, 2**32 - 1))
        parser.add_argument("--seed", metavar="N", type=seed, default=0, help="which episode (default: 0)")
        chosen, typed = parser.read(arguments)
        summary = read_run(chosen.folder, typed)
        out = _check_out(chosen.out or chosen.folder / "play.webp")
        update, total, film = play(chosen.folder, summary["config"], seed=chosen.seed, greedy=chosen.greedy, best=chosen.best)
        save(film, out)
        what = f"return {total:g} in {film.steps:,} steps ({film.seconds:.1f} s)"
        size = f"{out.stat().st_size / 1000:,.0f} kB"
        tracked = " and in its W&B run" if track(film, chosen.folder, summary) else ""
        print(f"{title(summary, update, greedy=chosen.greedy)}: {what}; film in {out} ({size}){tracked}")


if __name__ == "__main__":
    main()
