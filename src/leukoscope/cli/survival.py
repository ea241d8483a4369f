"""leukoscope survival: a table of patients with stage and outcome becomes curves, tests, a model and a page."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import click

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
_DYNAMIC = {"ignore_unknown_options": True, "allow_extra_args": True}


@click.group()
def survival() -> None:
    """Compare survival by stage at diagnosis, fit a model, predict for a patient. Research use only.

    \b
    Examples:
      leukoscope survival demo
      leukoscope survival fit cohort.csv --time months --event died --stage stage -o OUT
      leukoscope survival predict OUT --stage II --age 34
    """


@survival.command("demo")
@click.option("-o", "--output", default=Path("demo/survival"), show_default=True, type=_FOLDER, help="Folder to write.")
@click.option("--open/--no-open", "show", default=True, help="Open the page in a browser when it is done.")
def demo_command(output: Path, show: bool) -> None:
    """Study three real tables: larynx cancer and lymphoma by stage, leukemia remission by treatment.

    \b
    Examples:
      leukoscope survival demo
      leukoscope survival demo -o /tmp/demo --no-open
    """
    from ..survival.demo import DEMOS, write_table

    for demo in DEMOS:
        click.echo(f"{demo.title} ({demo.source})", err=True)
        table = write_table(demo, output / demo.name)
        others = [(other.title, f"../{other.name}/survival.html") for other in DEMOS if other is not demo]
        _study(table, demo.settings, output / demo.name, title=demo.title, source=demo.source, links=others)
    first = output / DEMOS[0].name / "survival.html"
    if show and sys.stdout.isatty():
        click.launch(first.resolve().as_uri())


@survival.command("fit")
@click.argument("cohort", type=_FILE)
@click.option("--time", "time_column", required=True, help="Column: time to the event or the last visit.")
@click.option(
    "--unit",
    type=click.Choice(["days", "weeks", "months", "years"]),
    help="Unit of all times; read from the name of the time column if it says so.",
)
@click.option("--event", required=True, help="Column: what happened (0/1, true/false, alive/dead, or see --events).")
@click.option("--events", default="", help="What its values mean: '0=censored,1=relapse,2=death'.")
@click.option("--event-name", default="", help="The event in a word, for the page: 'death'.")
@click.option("--competing", default="", help="Competing events: names from --events, or 0/1 columns, with commas.")
@click.option("--competing-time", default="", help="Column: time of the competing event, if not --time.")
@click.option("--stage", required=True, help="Column: stage, phase or risk group at diagnosis.")
@click.option("--stage-order", default="", help="Stages, mildest first: 'A<B<C'. Usual names are recognised.")
@click.option("--stage-cuts", default="", help="Limits that cut a numeric index into stages: '0.8,1.2'.")
@click.option("--entry", default="", help="Column: time at which the patient came under observation.")
@click.option("--id", "id_column", default="", help="Column that names the patient, to find repeated rows.")
@click.option("--covariates", default="", help="More predictors, with commas: 'age,log(wbc)'.")
@click.option(
    "--horizons", default="", help="Times to answer for: '1 year,2 years'; chosen from the follow-up if absent."
)
@click.option("--folds", default=5, show_default=True, type=click.IntRange(2, 20))
@click.option(
    "--repeats", default=5, show_default=True, type=click.IntRange(1, 100), help="Repeats of the cross-validation."
)
@click.option(
    "--bootstrap",
    default=50,
    show_default=True,
    type=click.IntRange(0, 1000),
    help="Samples for the optimism; 0 leaves it out.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--title", default="Survival by stage", show_default=True)
@click.option("-o", "--output", required=True, type=_FOLDER, help="Folder to write.")
def fit_command(cohort: Path, output: Path, title: str, **options: Any) -> None:
    """Compare the stages of a COHORT (CSV, one row per patient), fit a model, judge it, write the page.

    Writes survival.html (the page), survival.json (all numbers), model.json (for predict) and figures/.

    \b
    Examples:
      leukoscope survival fit cohort.csv --time months --event died --stage stage -o OUT
      leukoscope survival fit cohort.csv --time days --event died --stage risk --covariates age,wbc -o OUT
      leukoscope survival fit bmt.csv --time ftime --unit months --event Status \\
          --events "0=censored,1=relapse,2=death in remission" --competing "death in remission" \\
          --stage Phase --covariates Age,Sex,D,Source -o OUT
      leukoscope survival fit cml.csv --time tyears --event d --stage sokal --stage-cuts 0.8,1.2 -o OUT
    """
    _study(cohort, _settings(options), output, title=title)


def _settings(options: dict[str, Any]) -> Any:
    from ..survival.settings import StudySettings

    return StudySettings(
        time=options["time_column"], event=options["event"], stage=options["stage"], unit=options["unit"],
        events=_mapping(options["events"]), event_name=options["event_name"], competing=_list(options["competing"]),
        competing_time=options["competing_time"], entry=options["entry"], id=options["id_column"],
        covariates=_list(options["covariates"]), stage_order=_list(options["stage_order"], separator="<"),
        stage_cuts=_cuts(options["stage_cuts"]), horizons=_list(options["horizons"]),
        folds=options["folds"], repeats=options["repeats"], bootstrap=options["bootstrap"], seed=options["seed"],
    )  # fmt: skip


def _list(text: str, *, separator: str = ",") -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def _mapping(text: str) -> dict[str, str]:
    from ..errors import CallError

    pairs = [part.partition("=") for part in _list(text)]
    wrong = [value for value, equals, word in pairs if not equals or not word.strip()]
    if wrong:
        raise CallError(f"--events: '{wrong[0]}' has no meaning. Write value=meaning, such as \"0=censored,1=death\".")
    return {value.strip(): word.strip() for value, _, word in pairs}


def _cuts(text: str) -> tuple[float, ...]:
    from ..errors import CallError

    try:
        cuts = tuple(float(part) for part in _list(text))
        if not all(map(math.isfinite, cuts)):
            raise ValueError
        return cuts
    except ValueError:
        raise CallError(f"--stage-cuts '{text}' are not numbers. Write them with commas: 0.8,1.2.") from None


def _study(table: Path, settings: Any, output: Path, *, title: str, source: str = "", links: Any = ()) -> None:
    from ..artifacts import record_stage
    from ..report.survival_page import write_page
    from ..survival.cohort import read_cohort
    from ..survival.study import run_study, write_study

    started = time.perf_counter()
    cohort = read_cohort(table, settings)
    for note in [*(f"Rows left out: {len(d.lines)}; {d.reason}." for d in cohort.dropped), *cohort.notes]:
        click.echo(f"Note: {note}", err=True)
    study = run_study(cohort, settings, title=title)
    write_study(output, study)
    write_page(output, study.result, source=source, links=links)
    record_stage(output, "survival", started=started, seed=settings.seed)
    _say(study.result)
    click.echo(f"Wrote {output / 'survival.html'}")


def _say(result: dict[str, Any]) -> None:
    """Print what was found, in the sentences of the page."""
    for stage in result["comparison"]["stages"].values():
        click.echo(_latest(stage))
    tests = result["comparison"]["tests"]
    if tests:
        test = tests["logrank"]
        click.echo(f"Log-rank test: {test['statistic']:.4g} on {test['df']} df, p = {test['p']:.2g}.")
    if result["judgement"]:
        chosen = result["judgement"]["chosen"]
        for name in (chosen, "stage alone"):
            c = result["judgement"]["estimators"][name]["c_index"]
            click.echo(f"Cross-validated C-index, {name}: {c['value']:.3f} ({c['low']:.3f} to {c['high']:.3f}).")
    for limit in result["limits"]:
        click.echo(f"Note: {limit}", err=True)


def _latest(stage: dict[str, Any]) -> str:
    """Return the sentence of the latest horizon that the stage was followed to."""
    known = [entry["text"] for entry in stage["horizons"] if "survival" in entry]
    return str(known[-1] if known else stage["horizons"][0]["text"])


@survival.command("predict", context_settings=_DYNAMIC)
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("table", required=False, type=_FILE)
@click.option("--horizons", default="", help="Times to answer for: '1 year,2 years'; those of the model if absent.")
@click.option("--extrapolate", is_flag=True, help="Answer past the last follow-up with a smooth curve, marked as such.")
@click.option("--json", "as_json_text", is_flag=True, help="Print JSON instead of sentences.")
@click.option("--picture", type=_FILE, help="Write the curve of one patient as SVG.")
@click.option("-o", "--output", type=_FILE, help="Write the answers for a TABLE as CSV (else they go to the screen).")
@click.pass_context
def predict_command(
    context: click.Context, folder: Path, table: Path | None, horizons: str, extrapolate: bool, as_json_text: bool,
    picture: Path | None, output: Path | None,
) -> None:  # fmt: skip
    """Predict for a patient, whose values follow as options named like the columns, or for a TABLE of patients.

    Needs only what `survival fit` wrote. Past the last follow-up it gives no number, unless you say --extrapolate.

    \b
    Examples:
      leukoscope survival predict OUT --stage CR2 --age 34
      leukoscope survival predict OUT --stage II --age 60 --horizons "1 year,5 years" --picture curve.svg
      leukoscope survival predict OUT patients.csv -o predictions.csv
    """
    from ..survival.horizons import parse_horizon
    from ..survival.model import read_model
    from ..survival.predict import ask

    model = read_model(folder)
    asked = tuple(parse_horizon(text, unit=model.unit) for text in _list(horizons))
    if table is not None and not table.name.startswith("-"):
        _predict_table(model, table, output=output, horizons=asked, extrapolate=extrapolate)
        return
    prediction = ask(model, _patient(context.args, table), horizons=asked, extrapolate=extrapolate)
    _print(prediction, as_json_text=as_json_text)
    if picture:
        from ..artifacts import write_text
        from ..report.survival_figures import for_file, prediction_curve

        write_text(picture, for_file(prediction_curve(prediction)))
        click.echo(f"Wrote {picture}", err=True)


def _patient(words: list[str], first: Path | None) -> dict[str, str]:
    """Read '--stage CR2 --age=34' into {'stage': 'CR2', 'age': '34'}."""
    from ..errors import CallError

    words = [part for word in [*([str(first)] if first else []), *words] for part in _parted(word)]
    patient = {}
    while words:
        name, *words = words
        if not name.startswith("--") or not words:
            raise CallError(f"'{name}' is not followed by a value. Write --column value, such as --stage II --age 34.")
        patient[name.removeprefix("--")], *words = words
    return patient


def _parted(word: str) -> list[str]:
    name, equals, value = word.partition("=")
    return [name, value] if word.startswith("--") and equals else [word]


def _print(prediction: Any, *, as_json_text: bool) -> None:
    import json

    from ..survival.predict import as_json

    if as_json_text:
        click.echo(json.dumps(as_json(prediction), indent=1, ensure_ascii=False))
        return
    for answer in prediction.answers:
        click.echo(answer.text)
    click.echo(prediction.median_text)
    for note in prediction.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(f"({prediction.method}. Research use only; not for decisions about a patient.)")


def _predict_table(model: Any, table: Path, *, output: Path | None, horizons: Any, extrapolate: bool) -> None:
    from ..survival.predict import ask_table, write_predictions
    from ..survival.table import read_table

    patients = read_table(table)
    predictions = ask_table(model, patients, horizons=horizons, extrapolate=extrapolate)
    if output is None:
        for line, prediction in zip(patients.lines, predictions, strict=True):
            click.echo(f"Line {line}: {' '.join(answer.text for answer in prediction.answers)}")
        return
    write_predictions(output, predictions, patients)
    click.echo(f"Wrote {output}")
