from __future__ import annotations

import pytest

import dfkd_baselines
import dfkd_dda
import dfkd_recent
from dfkd_bench import Method
from dfkd_bench.errors import DfkdError
from dfkd_bench.leaderboard.claims import (
    TEACHER,
    Claim,
    Measurement,
    compare,
    compare_all,
    load_claims,
    load_methods,
    published_methods,
    select,
)

HEADER = "method,dataset,teacher,student,top1,reported_hours,grade,source,notes\n"
ROW = "CMI,cifar10,wrn40_2,wrn16_1,90.01,,primary,zju-vipa/CMI README.md (arXiv 2105.08584),a note\n"


def our_methods() -> dict[str, Method]:
    found: list[Method] = []
    for plugin in (dfkd_baselines, dfkd_dda, dfkd_recent):
        plugin.dfkd_methods(found.append)
    return {method.name: method for method in found}


@pytest.fixture(scope="module")
def claims() -> list[Claim]:
    return load_claims()


CLAIMED_PRESETS = {
    "cmi": ["paper", "paper-bank"],
    "fast": ["paper", "paper-2", "paper-5", "paper-10"],
    "nayer": ["paper", "paper-100", "paper-200"],
}


def written(tmp_path, *rows: str, header: str = HEADER):
    path = tmp_path / "claims.csv"
    path.write_text(header + "".join(rows), encoding="utf-8")
    return path


def one(**changes) -> Claim:
    fields = {"method": "CMI", "dataset": "cifar10", "teacher": "wrn40_2", "student": "wrn16_1", "top1": 90.0}
    fields |= {"reported_hours": None, "grade": "primary", "source": "somewhere", "notes": ""}
    return Claim(**(fields | changes))


def of(**changes) -> Measurement:
    fields = {"method": "cmi", "dataset": "cifar10", "pair": "wrn40_2:wrn16_1", "preset": "paper-bank", "mean": 90.4}
    return Measurement(**(fields | changes))


def test_every_published_number_is_well_formed(claims):
    # 520 rows; two of them have hours only.
    assert len(claims) == 520
    assert sum(claim.top1 is not None for claim in claims) == 518
    assert {claim.grade for claim in claims} == {"primary", "secondary"}
    for claim in claims:
        assert claim.source and claim.method and claim.dataset
        assert claim.top1 is None or 1 < claim.top1 < 99
        assert claim.reported_hours is None or 0 < claim.reported_hours <= 300


def test_what_stands_in_the_file_is_what_is_read(claims):
    (dda,) = select(claims, method="dda")
    assert (dda.method, dda.ours, dda.pair, dda.top1, dda.arxiv) == (
        "DDA",
        "dda",
        "wrn40_2:wrn16_1",
        90.92,
        "2410.17606",
    )
    assert dda.notes.endswith("(published CMI for this pair is 90.01)")
    (nayer,) = select(claims, method="NAYER-300")
    assert (nayer.top1, nayer.grade, nayer.ours, nayer.arxiv) == (71.72, "secondary", "nayer", "2310.00258")
    hours = [claim for claim in claims if claim.top1 is None]
    assert [(claim.method, claim.reported_hours) for claim in hours] == [("NAYER-100", 2.15), ("DeepInv", 31.23)]


def test_the_arxiv_id_is_the_sources(claims):
    found = {claim.source: claim.arxiv for claim in claims}
    assert found["zju-vipa/CMI README.md (arXiv 2105.08584)"] == "2105.08584"
    assert found["https://github.com/ljrprocc/DataFree README@22b5e81 (CuDFKD, arXiv:2208.13648)"] == "2208.13648"
    assert found["ljrprocc/DFKD README.md (AdaDFKD)"] is None
    assert found["hfutqian/GapSSG@442c017 images/table1.png (TPAMI 2024, doi 10.1109/TPAMI.2024.3379505)"] is None


def test_names_are_mapped_to_methods_that_exist_and_the_others_kept(claims):
    names = published_methods()
    assert set(names) <= {claim.method for claim in claims}
    assert set(names.values()) <= set(our_methods())
    assert {claim.ours for claim in claims if claim.method == "ADI"} == {"deepinversion"}
    assert {claim.ours for claim in select(claims, method="CuDFKD")} == {None}
    assert {claim.ours for claim in select(claims, method=TEACHER)} == {None}


def test_claims_are_filtered(claims):
    found = select(claims, method="cmi", dataset="cifar10", pair="wrn40_2:wrn16_1")
    assert {claim.method for claim in found} >= {"CMI", "CMI_scratch", "CMI-500", "CMI (AEAHL-RG's table)"}
    # Where sources disagree, each stands; where they repeat each other, too.
    assert sorted(claim.top1 for claim in found) == [87.38, 88.35, 88.82, 90.01, 90.01, 90.01, 90.01, 90.01]
    assert all(claim.ours == "cmi" and claim.dataset == "cifar10" for claim in found)
    assert select(claims) == claims
    assert select(claims, method="nobody") == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (ROW.replace("90.01", "190.01"), "top1"),
        (ROW.replace("90.01", "-1"), "top1"),
        (ROW.replace("90.01", "nan"), "top1"),
        (ROW.replace("90.01", "ninety"), "top1"),
        (ROW.replace("90.01,", "90.01,0"), "reported_hours"),
        (ROW.replace("90.01", ""), "neither top1 nor reported_hours"),
        (ROW.replace("primary", "hearsay"), "grade"),
        (ROW.replace("zju-vipa/CMI README.md (arXiv 2105.08584)", " "), "source"),
        (ROW.replace("CMI,", ",", 1), "method"),
        (ROW.replace("cifar10", "CIFAR 10"), "dataset"),
        (ROW.replace(",a note", ""), "8 fields"),
        (ROW.replace("a note", "a, note"), "10 fields"),
        (ROW.replace("a note", '"two\nlines"'), "notes"),
        (ROW.replace("a note", '"an open quote'), "fix its quotes"),
        # The fault that hid a row of the list that this file was made from.
        (ROW.replace("a note", '"an open quote') + ROW.replace("zju-vipa", '"zju-vipa').replace("),", ')",'), "line 3"),
        ("\n", "0 fields"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(tmp_path, row: str, reason: str):
    with pytest.raises(DfkdError, match="line 3") as refused:
        load_claims(written(tmp_path, ROW, row))
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_line_is_counted_after_rows_of_several_lines(tmp_path):
    good = ROW.replace("a note", '"a ""quoted"" note, with a comma"')
    assert load_claims(written(tmp_path, good))[0].notes == 'a "quoted" note, with a comma'
    with pytest.raises(DfkdError, match="line 1: the columns"):
        load_claims(written(tmp_path, ROW, header=HEADER.replace("grade", "rank")))
    with pytest.raises(DfkdError, match="line 1: the columns"):
        load_claims(written(tmp_path, header=""))
    with pytest.raises(DfkdError, match="cannot read the claims"):
        load_claims(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + "caf\xe9".encode("latin-1"))
    with pytest.raises(DfkdError, match="UTF-8"):
        load_claims(tmp_path / "latin.csv")


@pytest.mark.parametrize(
    ("mean", "half_width", "verdict"),
    [
        (90.4, None, "reproduced"),
        (91.0, 0.2, "reproduced"),
        (89.0, 0.2, "reproduced"),
        (91.01, 0.2, "not reproduced"),
        (88.9, None, "not reproduced"),
        (91.5, 1.6, "reproduced"),
        (91.5, 1.4, "not reproduced"),
        # Two seeds far apart show nothing.
        (92.0, 30.0, "reproduced"),
        (92.1, 30.0, "not reproduced"),
        (None, None, "not tried"),
    ],
)
def test_the_verdict(mean, half_width, verdict: str):
    found = compare(one(), of(mean=mean, half_width=half_width))
    assert found.verdict == verdict
    assert found.gap == (None if mean is None else pytest.approx(mean - 90))


def test_a_gap_of_exactly_the_tolerance_reproduces():
    # 2.14 - 1.14 is a little more than 1 to the machine.
    assert 2.14 - 1.14 > 1
    assert compare(one(top1=1.14), of(mean=2.14)).verdict == "reproduced"


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "quick"},
        {"preset": "small"},
        {"preset": "paper"},  # CMI's headline starts from a bank
        {"dataset": "cifar100"},
        {"pair": "wrn40_2:wrn16_2"},
        {"pair": "resnet34:wrn16_1"},
        {"method": "dafl"},
        {"preset": "quick", "mean": None},
    ],
)
def test_a_claim_is_compared_only_where_everything_fits(changes):
    found = compare(one(), of(**changes))
    assert (found.verdict, found.gap) == ("other setting", None)


@pytest.mark.parametrize(
    ("method", "pair", "ours", "preset", "fits"),
    [
        ("CMI_scratch", "wrn40_2:wrn16_1", "cmi", "paper", True),
        ("CMI_scratch", "wrn40_2:wrn16_1", "cmi", "paper-bank", False),
        ("NAYER-300", "wrn40_2:wrn16_2", "nayer", "paper", True),
        ("NAYER-200", "wrn40_2:wrn16_2", "nayer", "paper", False),
        ("NAYER-200", "wrn40_2:wrn16_2", "nayer", "paper-200", True),
        ("Fast-10", "wrn40_2:wrn16_2", "fast", "paper", True),
        ("Fast-2", "wrn40_2:wrn16_2", "fast", "paper", False),
        ("Fast-10", "vgg11:resnet18", "fast", "paper-10", True),
        ("Fast-2", "resnet34:resnet18", "fast", "paper-2", True),
        ("Fast-5", "wrn40_2:wrn16_1", "fast", "paper-5", True),
        ("Fast-5", "vgg11:resnet18", "fast", "paper", False),
        ("DAFL [mean over training epochs]", "resnet34:resnet18", "dafl", "paper", False),
        ("KD_real_data", "resnet34:resnet18", "real-data", "paper", True),
        ("CuDFKD", "resnet34:resnet18", "cudfkd", "paper", False),
    ],
)
def test_a_published_variant_is_compared_with_its_own_preset(method, pair, ours, preset, fits):
    teacher, student = pair.split(":")
    found = compare(one(method=method, teacher=teacher, student=student), of(method=ours, pair=pair, preset=preset))
    assert (found.verdict == "reproduced") == fits
    assert found.verdict in {"reproduced", "other setting"}


def test_the_methods_numbers_in_published_names_are_those_of_our_presets():
    ours = our_methods()
    steps = {
        preset.name: preset.synthesizer.options["steps"]
        for preset in ours["fast"].presets
        if preset.synthesizer is not None and "steps" in preset.synthesizer.options
    }
    assert {name: steps[name] for name in CLAIMED_PRESETS["fast"]} == {
        "paper": 10, "paper-2": 2, "paper-5": 5, "paper-10": 10
    }  # fmt: skip
    epochs = {preset.name: preset.schedule["epochs"] for preset in ours["nayer"].presets if "epochs" in preset.schedule}
    assert (epochs["paper"], epochs["paper-100"], epochs["paper-200"]) == (300, 100, 200)
    for name, ours_of in CLAIMED_PRESETS.items():
        assert set(ours_of) <= {preset.name for preset in ours[name].presets}


def test_a_student_trained_alone_fits_every_teacher():
    claim = one(method="student_scratch", teacher="", student="resnet18")
    for pair in ("resnet34:resnet18", "vgg11:resnet18"):
        assert compare(claim, of(method="scratch", pair=pair, preset="paper")).verdict == "reproduced"
    assert compare(claim, of(method="scratch", pair="vgg11:wrn16_1", preset="paper")).verdict == "other setting"

    distilled = one(method="DAFL", teacher="", student="resnet18")
    assert compare(distilled, of(method="dafl", pair="vgg11:resnet18", preset="paper")).verdict == "other setting"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("CMI,cmi,paper,,\nCMI,cmi,paper-bank,,\n", "line 3: 'CMI' stands there twice"),
        ("CMI,,paper,,\n", "line 2: method"),
        (",cmi,paper,,\n", "line 2: published"),
        ('CMI,cmi,"paper, quick",,\n', "line 2: presets"),
        ("CMI,cmi,paper,some,\n", "line 2: teacher"),
        ("CMI,cmi,paper,\n", "line 2: 4 fields"),
    ],
)
def test_a_malformed_row_of_the_methods_is_refused_with_its_line(tmp_path, row, reason):
    path = tmp_path / "claims-methods.csv"
    path.write_text(f"published,method,presets,teacher,notes\n{row}", encoding="utf-8")
    with pytest.raises(DfkdError) as refused:
        load_methods(path)
    assert reason in str(refused.value)


def test_hours_alone_are_no_accuracy_to_compare():
    assert compare(one(top1=None, reported_hours=2.0), of()).verdict == "other setting"


def test_all_claims_of_a_row_stand_side_by_side(claims):
    found = compare_all(claims, of(mean=90.0, half_width=0.3, teacher_accuracy=94.5))
    assert len(found) > 3
    assert all(item.claim.ours == "cmi" and item.teacher_measured == 94.5 for item in found)
    by_method = {item.claim.method: item for item in found}
    assert by_method["CMI"].verdict == "reproduced"
    assert by_method["CMI_scratch"].verdict == "other setting"
    (own,) = [item for item in found if item.claim.source.startswith("zju-vipa/CMI") and item.claim.method == "CMI"]
    assert own.gap == pytest.approx(90.0 - own.claim.top1)
    assert own.teacher_claimed == 94.87
    assert compare_all(claims, of(dataset="digits")) == []


def test_the_teachers_number_is_the_same_sources(claims):
    source = "zju-vipa/CMI README.md (arXiv 2105.08584)"
    teachers = [one(method=TEACHER, student="", top1=top1, source=text) for top1, text in ((94.0, "x"), (95.0, source))]
    assert compare(one(source=source), of(), teachers).teacher_claimed == 95.0
    assert compare(one(source="another text of arXiv 2105.08584"), of(), teachers).teacher_claimed == 95.0
    assert compare(one(), of(), teachers).teacher_claimed is None
    assert compare(one(source="x", dataset="cifar100"), of(), teachers).teacher_claimed is None
