"""`shortlist`: one group of commands, each in its own file under `shortlist/commands`.

The command line starts everything, so its functions (and only they) import training, the simulator
and the orchestrator, and only when the command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click
from rich.console import Console
from rich.markup import escape

import shortlist
from shortlist.commands.data import data
from shortlist.commands.demo import demo
from shortlist.commands.evaluate import evaluate
from shortlist.commands.events import events
from shortlist.commands.forget import forget
from shortlist.commands.import_data import import_data
from shortlist.commands.items import items
from shortlist.commands.recommend import recommend
from shortlist.commands.redeploy import redeploy, rollback
from shortlist.commands.rollout import rollout
from shortlist.commands.serve import serve
from shortlist.commands.similar import similar
from shortlist.commands.train import train
from shortlist.commands.tune import tune
from shortlist.commands.up import up
from shortlist.errors import ShortlistError

__all__ = ["cli", "main"]

USAGE = 2
FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells do


@dataclass(slots=True)
class Settings:
    """What the options before the command's name say."""

    debug: bool = False


@click.group(
    context_settings={
        "auto_envvar_prefix": "SHORTLIST",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
    invoke_without_command=True,
    epilog="Every option is an environment variable, too: --workdir is SHORTLIST_WORKDIR, and "
    "`up --port` is SHORTLIST_UP_PORT.",
)
@click.version_option(shortlist.__version__, prog_name="shortlist")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """A two-stage recommender: from a folder of events to a page of recommendations.

    \b
    See it work on a made-up world, in one command:
      shortlist demo --workdir W
    \b
    The same in steps, on your own data:
      shortlist import --schema my.yaml --source FOLDER --workdir W
      shortlist train --workdir W
      shortlist evaluate --workdir W
      shortlist recommend --workdir W --user 42
      shortlist serve --workdir W --port 7700
    """
    context.obj.debug = debug
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (
    data,
    import_data,
    tune,
    train,
    evaluate,
    serve,
    up,
    redeploy,
    rollback,
    rollout,
    recommend,
    similar,
    events,
    items,
    forget,
    demo,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become one line on stderr."""
    settings = Settings()
    try:
        code = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="shortlist",
            standalone_mode=False,
            obj=settings,
        )
    except (click.Abort, KeyboardInterrupt):
        return _report("interrupted", INTERRUPTED)
    except click.ClickException as error:
        return _report(error.format_message() + _hint(error), error.exit_code)
    except ShortlistError as error:
        return _report(str(error), FAILED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has left, as in `shortlist ... | head`
        return FAILED
    except OSError as error:
        return _report(str(error), FAILED)
    except Exception as error:
        if settings.debug:
            raise
        if isinstance(error, ModuleNotFoundError):
            return _report(_missing(error), FAILED)
        text = f"{type(error).__name__}: {error}"
        return _report(f"internal: {text} (`shortlist --debug ...` shows where)", FAILED)
    return code if isinstance(code, int) else 0


def _report(text: str, code: int) -> int:
    """The first line in red; what follows it (the end of a log) as it is."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    first, _, rest = text.partition("\n")
    console.print(f"[bold red]error:[/] {escape(first)}")
    if rest:
        console.print(escape(rest))
    return code


def _hint(error: click.ClickException) -> str:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f" (`{error.ctx.command_path} --help` explains)"
    return ""


def _missing(error: ModuleNotFoundError) -> str:
    return (
        f"{error.name} is not installed: serving a tier needs shortlist[retrieval] or "
        "shortlist[ranking], and importing, training and the demo need shortlist[all]"
    )
