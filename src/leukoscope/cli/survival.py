"""leukoscope survival: a table of patients with stage and outcome becomes curves, tests, a model and a page."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import click

from .options import echo_json, note

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
    """Analyse three public data sets: larynx cancer and lymphoma by stage, leukemia remission by treatment.

    \b
    Examples:
      leukoscope survival demo
      leukoscope survival demo -o /tmp/demo --no-open
    """
    from ..survival.cohort import DEMOS, write_table

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
    help="Unit of all times; read from the name of the time column if it contains it.",
)
@click.option("--event", required=True, help="Column: event indicator (0/1, true/false, alive/dead, or see --events).")
@click.option("--events", default="", help="Meaning of its values: '0=censored,1=relapse,2=death'.")
@click.option("--event-name", default="", help="Name of the event on the page: 'death'.")
@click.option(
    "--competing", default="", help="Competing events: names from --events, or 0/1 columns, separated by commas."
)
@click.option("--competing-time", default="", help="Column: time of the competing event, if not --time.")
@click.option("--stage", required=True, help="Column: stage, phase or risk group at diagnosis.")
@click.option("--stage-order", default="", help="Stages, mildest first: 'A<B<C'. Usual names are recognised.")
@click.option("--stage-cuts", default="", help="Cut points that divide a numeric index into stages: '0.8,1.2'.")
@click.option("--entry", default="", help="Column: time of entry into observation (left truncation).")
@click.option(
    "--landmark",
    default="",
    help="Landmark: count time from here, only for patients without an event until then: '6 months'.",
)
@click.option("--id", "id_column", default="", help="Column that identifies the patient, to find repeated rows.")
@click.option("--covariates", default="", help="More predictors, separated by commas: 'age,log(wbc)'.")
@click.option(
    "--horizons", default="", help="Times to predict for: '1 year,2 years'; chosen from the follow-up if absent."
)
@click.option(
    "--folds", default=5, show_default=True, type=click.IntRange(2, 20), help="Folds of the cross-validation."
)
@click.option(
    "--repeats", default=5, show_default=True, type=click.IntRange(1, 100), help="Repeats of the cross-validation."
)
@click.option(
    "--bootstrap",
    default=50,
    show_default=True,
    type=click.IntRange(0, 1000),
    help="Bootstrap samples for the optimism correction; 0 skips it.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the folds and the bootstrap.")
@click.option("--title", default="Survival by stage", show_default=True, help="Title of the page.")
@click.option("-o", "--output", required=True, type=_FOLDER, help="Folder to write.")
def fit_command(cohort: Path, output: Path, title: str, **options: Any) -> None:
    """Compare the stages of a COHORT (CSV, one row per patient), fit and evaluate a model, write the page.

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
    from ..survival.table import StudySettings

    return StudySettings(
        time=options["time_column"],
        event=options["event"],
        stage=options["stage"],
        unit=options["unit"],
        events=_mapping(options["events"]),
        event_name=options["event_name"],
        competing=_list(options["competing"]),
        competing_time=options["competing_time"],
        entry=options["entry"],
        landmark=options["landmark"],
        id=options["id_column"],
        covariates=_list(options["covariates"]),
        stage_order=_list(options["stage_order"], separator="<"),
        stage_cuts=_cuts(options["stage_cuts"]),
        horizons=_list(options["horizons"]),
        folds=options["folds"],
        repeats=options["repeats"],
        bootstrap=options["bootstrap"],
        seed=options["seed"],
    )


def _list(text: str, *, separator: str = ",") -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def _mapping(text: str) -> dict[str, str]:
    from ..errors import UsageError

    meaning: dict[str, str] = {}
    for value, equals, word in (part.partition("=") for part in _list(text)):
        if not (equals and value.strip() and word.strip()):
            raise UsageError(
                f"--events: '{value}{equals}{word}' is not value=meaning. Write such as \"0=censored,1=death\"."
            )
        if value.strip() in meaning:
            raise UsageError(f"--events gives '{value.strip()}' two meanings. Keep one of them.")
        meaning[value.strip()] = word.strip()
    return meaning


def _cuts(text: str) -> tuple[float, ...]:
    from ..errors import UsageError

    try:
        cuts = tuple(float(part) for part in _list(text))
        if not all(map(math.isfinite, cuts)):
            raise ValueError
        return cuts
    except ValueError:
        raise UsageError(f"--stage-cuts '{text}' are not numbers. Write them with commas: 0.8,1.2.") from None


def _study(table: Path, settings: Any, output: Path, *, title: str, source: str = "", links: Any = ()) -> None:
    from ..files import record_stage
    from ..report.survival import write_page
    from ..survival.cohort import read_cohort
    from ..survival.study import run_study, write_study
    from ..survival.table import counted

    started = time.perf_counter()
    cohort = read_cohort(table, settings)
    for line in [*(f"{counted(len(d.lines), 'row')} left out: {d.reason}." for d in cohort.dropped), *cohort.notes]:
        click.echo(f"Note: {line}", err=True)
    study = run_study(cohort, settings, title=title)
    write_page(output, study.result, source=source, links=links)
    write_study(output, study)
    record_stage(output, "survival", started=started, seed=settings.seed)
    _print_study(study.result)
    note(f"Wrote {output / 'survival.html'}")


def _print_study(result: dict[str, Any]) -> None:
    """Print what was found, in the sentences of the page."""
    from ..report.survival import lines_of_c_index, lines_of_tests
    from ..survival.predict import NOTICE

    for stage in result["comparison"]["stages"].values():
        click.echo(_latest(stage))
    for line in [*lines_of_tests(result["comparison"]["tests"]), *lines_of_c_index(result)]:
        click.echo(line)
    click.echo(NOTICE)
    for limit in result["limits"]:
        click.echo(f"Note: {limit}", err=True)


def _latest(stage: dict[str, Any]) -> str:
    """Return the sentence of the latest horizon that the stage was followed to."""
    known = [entry["text"] for entry in stage["horizons"] if "survival" in entry]
    return str(known[-1] if known else stage["horizons"][0]["text"])


@survival.command("predict", context_settings=_DYNAMIC)
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("table", required=False, type=_FILE)
@click.option("--horizons", default="", help="Times to predict for: '1 year,2 years'; those of the model if absent.")
@click.option(
    "--extrapolate", is_flag=True, help="Predict past the last follow-up with a smooth curve; such values are marked."
)
@click.option("--json", "as_json_text", is_flag=True, help="Print JSON instead of sentences (a list for a TABLE).")
@click.option("--picture", type=_FILE, help="Write the curve of one patient as SVG.")
@click.option("-o", "--output", type=_FILE, help="Write the predictions as CSV instead of printing them.")
@click.pass_context
def predict_command(
    context: click.Context,
    folder: Path,
    table: Path | None,
    horizons: str,
    extrapolate: bool,
    as_json_text: bool,
    picture: Path | None,
    output: Path | None,
) -> None:
    """Predict for a patient, whose values follow as options named like the columns, or for a TABLE of patients.

    Needs only what `survival fit` wrote. A TABLE is a CSV with the columns that were fitted, and any others.
    Past the last follow-up it gives no number without --extrapolate.

    \b
    Examples:
      leukoscope survival predict OUT --stage CR2 --age 34
      leukoscope survival predict OUT --stage II --age 60 --horizons "1 year,5 years" --picture curve.svg
      leukoscope survival predict OUT patients.csv -o predictions.csv
    """
    from ..survival.model import read_model
    from ..survival.predict import write_predictions
    from ..survival.table import parse_horizon

    model = read_model(folder)
    requested = tuple(parse_horizon(text, unit=model.unit) for text in _list(horizons))
    words = [str(table), *context.args] if table and str(table).startswith("-") else context.args
    table = None if table and str(table).startswith("-") else table
    _check_call(words, table, output=output, as_json_text=as_json_text, picture=picture)
    patients, predictions = _predictions(model, words, table, {"horizons": requested, "extrapolate": extrapolate})
    for line in patients.notes:
        click.echo(f"Note: {line}", err=True)
    if picture:
        _draw(predictions[0], picture)
    if output:
        write_predictions(output, predictions, patients)
        note(f"Wrote {output}")
        return
    _print(predictions, patients.lines if table else (), as_json_text=as_json_text)


def _check_call(
    words: list[str], table: Path | None, *, output: Path | None, as_json_text: bool, picture: Path | None
) -> None:
    """Refuse options that would have no effect."""
    from ..errors import UsageError

    if table and words:
        raise UsageError(
            f"'{words[0]}' cannot be combined with a TABLE, which contains all values. Leave out one of the two."
        )
    if table and picture:
        raise UsageError("--picture draws one patient. Give that patient's values instead of a TABLE.")
    if output and as_json_text:
        raise UsageError("-o writes CSV and --json prints JSON. Leave out one of them.")


def _predictions(model: Any, words: list[str], table: Path | None, how: dict[str, Any]) -> tuple[Any, Any]:
    """Return the patients as a table, that of one row for the patient of the call, and a prediction for each."""
    from ..survival.predict import ask, ask_table
    from ..survival.table import PatientTable, read_table

    if table:
        patients = read_table(table)
        return patients, ask_table(model, patients, **how)
    patient = _patient(words)
    return PatientTable({name: [value] for name, value in patient.items()}, [1], "the call"), [
        ask(model, patient, **how)
    ]


def _draw(prediction: Any, picture: Path) -> None:
    from ..errors import UsageError
    from ..files import write_text
    from ..report.survival_figures import for_file, prediction_curve

    if not prediction.curves:
        raise UsageError(f"There is no curve to draw. {prediction.notes[0]}")
    write_text(picture, for_file(prediction_curve(prediction)))
    note(f"Wrote {picture}", err=True)


def _patient(words: list[str]) -> dict[str, str]:
    """Read '--stage CR2 --age=34' into {'stage': 'CR2', 'age': '34'}."""
    from ..errors import UsageError

    words = [part for word in words for part in _split_at_equals(word)]
    patient: dict[str, str] = {}
    while words:
        name, *words = words
        if not name.startswith("--") or not words or words[0].startswith("--"):
            raise UsageError(f"'{name}' is not followed by a value. Write --column value, such as --stage II --age 34.")
        if name.removeprefix("--") in patient:
            raise UsageError(f"{name} is given twice. Give it once; for several patients, use a TABLE.")
        patient[name.removeprefix("--")], *words = words
    return patient


def _split_at_equals(word: str) -> list[str]:
    name, equals, value = word.partition("=")
    return [name, value] if word.startswith("--") and equals else [word]


def _print(predictions: Any, lines: Any, *, as_json_text: bool) -> None:
    """Print the predictions; `lines` are those of the table they came from, none for a single patient."""
    import json

    from ..survival.predict import NOTICE, as_json

    if as_json_text:
        found = [as_json(prediction) for prediction in predictions]
        echo_json(json.dumps(found if lines else found[0], indent=1, ensure_ascii=False))
        return
    for place, prediction in enumerate(predictions):
        if lines:
            click.echo(f"Line {lines[place]}:")
        for text in [*(answer.text for answer in prediction.answers), prediction.median_text]:
            click.echo(text)
        for line in prediction.notes:
            click.echo(f"Warning: {line}")
        if not lines:
            click.echo(f"{prediction.method}.")
    click.echo(NOTICE)
