"""Arguments and options of the commands, with their help; `cli.py` says which command has which."""

import pkgutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from schemas.untrusted import LOG_FORMAT_ENV

_EXPORTERS = Path(__file__).parents[1] / "pipeline" / "exporters"
_EXPORT_FORMATS = ", ".join(
    sorted(module.name for module in pkgutil.iter_modules([str(_EXPORTERS)]) if not module.ispkg)
)


def _set(what: str) -> typer.models.OptionInfo:
    return typer.Option("--set", metavar="KEY=VALUE", help=f"{what}; repeatable.")


# Of all commands
LogFormat = Annotated[
    Literal["text", "json"],
    typer.Option(
        "--log-format",
        envvar=LOG_FORMAT_ENV,
        help="How stderr is written: text, or json (one object a line); also after the command.",
    ),
]


def log_format_first(args: list[str]) -> list[str]:
    """Return the arguments with `--log-format` before the command, where it may also be missing."""
    for place, arg in enumerate(args):
        if arg == "--":
            break
        if arg.startswith("--log-format="):
            return [arg, *args[:place], *args[place + 1 :]]
        if arg == "--log-format" and args[place + 1 :]:
            return [*args[place : place + 2], *args[:place], *args[place + 2 :]]
    return args


# Of several commands
Run = Annotated[
    str,
    typer.Argument(
        help="Run folder: a path or any fsspec URL; RUN@1: before it was updated.", metavar="RUN"
    ),
]
WholeRun = Annotated[
    str, typer.Argument(help="Run folder: a path or any fsspec URL.", metavar="RUN")
]
Images = Annotated[str, typer.Option("--images", help="Folder, glob, bucket prefix or list file.")]
ImagesRoots = Annotated[
    list[str] | None,
    typer.Option(
        "--images-root",
        metavar="FOLDER_OR_URL",
        help="Read images from below here: for a run that another machine began, or if they have "
        "moved; remembered; repeatable.",
    ),
]
AllowPrivate = Annotated[
    bool,
    typer.Option(
        "--allow-private-addresses",
        help="Call loopback, link-local and private addresses that a list, a run or a redirect "
        "names.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Local = Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME",
        help="Method; `ovseg methods` lists them; the same as --set method.name=NAME.",
    ),
]
JobFields = Annotated[list[str] | None, _set("Set any field that `ovseg settings` lists")]
ProtocolName = Annotated[
    str,
    typer.Option("--protocol", help="Data set as published: voc21, ade20k, ... or a .yaml file."),
]
DataFolder = Annotated[str, typer.Option("--data", help="The data set's folder, with --protocol.")]

# annotate
JobFile = Annotated[
    str, typer.Argument(help="Job file (YAML): a path or URL.", metavar="[CONFIG.yaml]")
]
Labels = Annotated[str, typer.Option(help='Words to look for: "cat,dog,sofa".')]
VocabularyFile = Annotated[
    str, typer.Option(help="File of words: .txt, one per line; .yaml, .json with synonyms.")
]
OutRun = Annotated[str, typer.Option(help="Run folder: a path or any fsspec URL.")]
Limit = Annotated[
    int | None, typer.Option(min=0, help="Annotate only the first N images; 0 (default): all.")
]
Workers = Annotated[
    int | None, typer.Option(min=0, help="At most N workers; 0 (default): as resources allow.")
]
RetryErrors = Annotated[
    str,
    typer.Option(
        "--retry-errors",
        metavar="[CODES]",
        help="Try failed images again, all or those of these codes (with commas between); "
        "images that a store or mount did not give are tried again anyway.",
    ),
]
RETRY_ALL = "all"
"""Value of `--retry-errors` that stands for every code."""
VALUES_UNSAID = {"--retry-errors": RETRY_ALL, "--keep-features": "float16"}
"""Values of options of `annotate` that may stand without one."""
KeepFeatures = Annotated[
    str,
    typer.Option(
        "--keep-features",
        metavar="[float16|int8]",
        help="Keep every image's features in the run folder, for `relabel`: float16, or int8 in "
        "half the space.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the plan, look at weights files; run and write nothing."),
]

Measure = Annotated[
    int | None,
    typer.Option(
        "--measure",
        metavar="N",
        min=1,
        help="With --dry-run: compute N images spread over the collection, such as 32, and print "
        "how long the job will take, what it reads and writes, and what it costs.",
    ),
]
PricePerHour = Annotated[
    str,
    typer.Option(
        "--price-per-hour",
        metavar="PRICE",
        help="With --measure: price of one worker for an hour, in your currency.",
    ),
]
Shards = Annotated[
    str | None,
    typer.Option(
        "--shards",
        metavar="TASK/TASKS",
        help="Be one of several tasks that share a run without Ray: 3/8 annotates every 8th shard "
        "from the 3rd on.",
    ),
]
Update = Annotated[
    bool,
    typer.Option(
        "--update",
        help="List the collection again: annotate new and changed images, leave out vanished ones.",
    ),
]

Webhook = Annotated[
    str,
    typer.Option(
        metavar="URL",
        help="Call this address once, when the run has ended or failed; better by OVSEG_WEBHOOK, "
        "which no other user of this machine sees.",
    ),
]

# sample
ListFile = Annotated[
    str,
    typer.Option("--out", help="The list, .csv or .txt (URIs alone); default: in the run folder."),
]
Only = Annotated[
    str,
    typer.Option("--only", metavar="LIST", help="Only the images of a list file, see `sample`."),
]
SampleBy = Annotated[
    str,
    typer.Option(
        "--by",
        metavar="[doubt|balanced|diverse|outlier]",
        help="doubt (highest review priority), balanced (all predicted labels equally often), "
        "diverse (unlike each other) or outlier (unlike all others).",
    ),
]
SampleCount = Annotated[int, typer.Option("--count", min=1, help="Number of images.")]

# duplicates, split, search
Cosine = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        min=-1.0,
        max=1.0,
        help="Cosine from which the pictures of two images are compared (0.9); with --no-pictures "
        "from which the images are near-duplicates (0.97).",
    ),
]
Pictures = Annotated[
    bool,
    typer.Option(help="Read the images of close pairs and compare them, or go by vectors alone."),
]
ValShare = Annotated[float, typer.Option("--val", help="Share of the images for validation.")]
TestShare = Annotated[float, typer.Option("--test", help="Share of the images for a test.")]
Group = Annotated[
    str,
    typer.Option(
        "--group",
        metavar="folder|COLUMN",
        help="Keep the images of one folder, or of one value of a column, together.",
    ),
]
GroupTable = Annotated[
    str,
    typer.Option(
        "--table",
        help="Table with `path` and that column; default: the list that the run was made from.",
    ),
]
DuplicatesApart = Annotated[
    bool,
    typer.Option(
        "--duplicates/--ignore-duplicates",
        help="Keep near-duplicates together in one part (default), or do not look for them.",
    ),
]
SplitLists = Annotated[str, typer.Option("--out", help="Folder of the lists.")]
SearchText = Annotated[
    str, typer.Argument(help='Words to search for: "yellow star".', metavar="[TEXT]")
]
SearchImage = Annotated[
    str,
    typer.Option(
        "--image", help="Search for what is like an image: its path in the run, or a file."
    ),
]
SearchCount = Annotated[int, typer.Option("--count", min=1, help="Number of images.")]
SearchSheet = Annotated[
    str, typer.Option("--sheet", help="Draw the images and their masks: a name of a picture.")
]

# inspect, export, evaluate, sheet, delete
Orphans = Annotated[
    bool, typer.Option("--orphans", help="List leftover files of interrupted writes.")
]
TableFiles = Annotated[
    str,
    typer.Option(
        "--files",
        metavar="TABLE",
        help="Only list the Parquet files of images, scores or annotations, for other readers.",
    ),
]
Clean = Annotated[
    bool, typer.Option("--clean", help="Delete those files; not while the run goes on.")
]
Format = Annotated[str, typer.Option(help=f"Format: {_EXPORT_FORMATS}.")]
Masks = Annotated[
    str,
    typer.Option(
        metavar="[predicted|reviewed|merged]",
        help="predicted, reviewed (only what people decided) or merged (theirs over the "
        "predicted); default: merged once a review exists, else predicted.",
    ),
]
Segments = Annotated[
    str,
    typer.Option(
        metavar="[class|components]",
        help="class, or components (connected regions, each speck one; `--set min_area_px=64`, "
        "where a format has it, leaves specks out); default: as in the run.",
    ),
]
FormatOptions = Annotated[
    list[str] | None,
    _set("Option of the format, see docs/exports.md; an invalid one prints the valid ones"),
]
Truth = Annotated[
    str,
    typer.Option(help="True masks: instances.json, a folder of label images, or `reviewed`."),
]
TruthLabels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        help="A label of the truth and the run's, if their names differ: THEIRS=OURS; repeatable.",
    ),
]
TruthBackground = Annotated[
    str,
    typer.Option(
        metavar="[0|255|none]",
        help="Values of label images: 0 (0 is background, labels count from 1), 255 (labels "
        "count from 0, 255 is background) or none (255 is not counted); default: as "
        "classes.json says, else 0.",
    ),
]
Instances = Annotated[
    bool,
    typer.Option(
        "--instances",
        help="Compare single objects: AP, PQ and cgF1 against a COCO file or `reviewed`.",
    ),
]
Rules = Annotated[
    list[str] | None, _set("Option of the computation; an invalid one prints the valid ones")
]

Sheet = Annotated[
    str,
    typer.Option(
        help="The picture, .png or .jpg; default: in the run folder, or in this folder for a run "
        "at a URL."
    ),
]
SheetLimit = Annotated[int, typer.Option(min=1, max=1000, help="Show the first N images.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask no question.")]

# review, import-review, calibrate, compare
Host = Annotated[
    str,
    typer.Option(help="Address to listen on; if other computers can connect, the URL has a token."),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")]
HostNames = Annotated[
    list[str] | None,
    typer.Option("--name", help="A further host name that browsers may use; repeatable."),
]
OwnWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        metavar="NAME",
        help='Weights that the run names and this machine has not used: "Try words" may load '
        "them; repeatable.",
    ),
]
ToolFile = Annotated[
    str, typer.Argument(help="The tool's export: a path or URL.", metavar="[FILE]")
]
Tool = Annotated[
    str,
    typer.Option(
        "--from", metavar="[label_studio|coco|cvat]", help="The tool; default: as FILE looks."
    ),
]
ToolLabels = Annotated[
    list[str] | None,
    typer.Option("--label", help="A label of the tool and the run's: THEIRS=OURS; repeatable."),
]
EmptyMeans = Annotated[
    str,
    typer.Option(
        metavar="[unannotated|reviewed]",
        help="An image that the file lists without a mask or a mark: unannotated (default), or "
        "reviewed (it counts as empty).",
    ),
]
UnchangedMeans = Annotated[
    str,
    typer.Option(
        metavar="[auto|reviewed|unreviewed]",
        help="Images as predicted, or as reviewed before, and not marked as checked: reviewed, "
        "unreviewed (left out), or auto (default): unreviewed if the file marks other images, "
        "else reviewed, but a file that changes nothing is refused.",
    ),
]
Prefer = Annotated[
    str,
    typer.Option(
        metavar="[newer|file|page]",
        help="Where the review page says otherwise: newer (default; the page's, if the file "
        "has no times), file or page.",
    ),
]
ListImports = Annotated[bool, typer.Option("--list", help="List the imports of the run.")]
Undo = Annotated[str, typer.Option(help="Take the import with this id back.")]
CalibrationFile = Annotated[str, typer.Option(help="The file; default: in the run folder.")]
OtherRun = Annotated[
    str,
    typer.Argument(
        help="Another run of the same images: other method, words or state.", metavar="OTHER_RUN"
    ),
]

# settings, demo
MethodShown = Annotated[str, typer.Option(help="Show this method's options as well.")]
JsonSchema = Annotated[
    bool, typer.Option("--json", help="Print the JSON schema of a job file, for editors.")
]
DemoFolder = Annotated[
    str, typer.Option(help="Folder of the demo; an earlier demo in it is overwritten.")
]
NumScenes = Annotated[int, typer.Option(min=2, max=1000, help="Number of scenes.")]
Seed = Annotated[int, typer.Option(min=0, help="Another seed, another choice.")]

# train-heads, train-student, export-student, submit
TrainingFile = Annotated[
    str, typer.Argument(help="Training file (YAML): a path or URL.", metavar="[CONFIG.yaml]")
]
TrainingFields = Annotated[list[str] | None, _set("Set any field of the training file")]
Head = Annotated[str, typer.Option("--head", "--heads", help="What to train: found or dinoiser.")]
HeadFile = Annotated[str, typer.Option(help="The head's file, .safetensors: a path or URL.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Default: as published.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Images per step; default: as published.")]
Teacher = Annotated[
    str,
    typer.Argument(
        help="Run folder whose images and masks are learned: a path or any fsspec URL; or a "
        "job file (.yaml), whose run is made first. Without one: --protocol and --data, or "
        "`teacher` in the file.",
        metavar="[RUN]",
    ),
]
StudentTrainingFile = Annotated[
    str, typer.Option("--config", metavar="CONFIG.yaml", help="Training file: a path or URL.")
]
Student = Annotated[
    str, typer.Option(help="What to train: maskclip_plus (default) or text_fusion.")
]
OutStudent = Annotated[str, typer.Option(help="The student's folder: a path or any fsspec URL.")]
LearnedMasks = Annotated[
    str,
    typer.Option(
        help="predicted, reviewed (only what people decided) or merged; default: merged once "
        "a review exists, else predicted."
    ),
]
LearnedTruth = Annotated[
    str,
    typer.Option(help="instances.json or a folder of label images, learned in place of the masks."),
]
TrainingProtocol = Annotated[
    str,
    typer.Option(help="Data set with a training split: camvid, cityscapes or a .yaml file."),
]
TrainingWorkers = Annotated[
    int | None, typer.Option(min=0, help="Workers that share a batch; 0: as many as fit.")
]
StudentFile = Annotated[
    str,
    typer.Argument(
        help="Folder of a student, or its .safetensors: a path or any fsspec URL.",
        metavar="STUDENT",
    ),
]
StudentFormat = Annotated[str, typer.Option(help="Format: onnx (needs the extra `onnx`).")]
OutModel = Annotated[str, typer.Option(help="The file; default: beside the student's.")]
SubmittedFile = Annotated[
    str, typer.Argument(help="Job file (YAML): a path or URL.", metavar="CONFIG.yaml")
]
Address = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS",
        help="Address of the cluster's head: http://HEAD:8265, or HEAD:8265. `ray start --head` "
        "prints it.",
    ),
]
Ship = Annotated[
    bool,
    typer.Option(
        "--ship",
        help="Send this machine's ovseg along; the nodes need only the libraries that it uses. "
        "Else they use their own.",
    ),
]
JobId = Annotated[
    str, typer.Argument(help="Id of the job, as `ovseg submit` says it.", metavar="ID")
]
AnyJobId = Annotated[str, typer.Argument(help="Id of one job; all jobs without it.", metavar="ID")]
Followed = Annotated[
    bool, typer.Option("--follow", help="Until the job ends; returns its exit code.")
]
