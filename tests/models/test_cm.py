import dataclasses

import numpy as np
import pytest

from lmlab.errors import ArtifactError, DataError, EmptyDataError, SettingError
from lmlab.kernels import only
from lmlab.kernels.cm.layout import RECENT
from lmlab.models.base import estimated
from lmlab.models.cm import CM, Adaptive
from lmlab.models.cm.contexts import CHARACTERS, WORDS, chosen, kinds, parse
from lmlab.models.cm.tree import huffman
from lmlab.models.scorers import rows_of, scorer_of
from lmlab.vocabulary import BOS, EOS, NEVER_PREDICTED, SPECIALS
from tests.texts import TEXT

SCRIPT = "KING:\nNow is the winter.\n\nQUEEN:\nThe winter is now, the winter!\n\nKING:\nNow is the summer.\n"
ALPHABET = sorted(set(SCRIPT + TEXT))
SPELLINGS = [b""] * len(SPECIALS) + [c.encode() for c in ALPHABET]
FEW = (
    "0",
    "1",
    "1-2",
    "2-3",
    "like1-2",
    "word+1",
    "word+word1",
    "heading+1",
    "column",
    "first+word",
    "match3",
    "fresh:1",
)


def ids_of(*texts):
    index = {c: id for id, c in enumerate(ALPHABET, len(SPECIALS))}
    return np.array([id for text in texts for id in (BOS, *(index[c] for c in text), EOS)])


def model_of(ids_N, **settings):
    return CM.estimate_spelled(CM.Settings(**{"memory": "4M", "window": 256, **settings}), SPELLINGS, ids_N)


@pytest.mark.parametrize("contexts", [FEW, ("0", "1-2")])
def test_compiled_loops_are_the_plain_ones(contexts):
    learned_N, read_N = ids_of(SCRIPT, SCRIPT[20:]), ids_of(SCRIPT[30:] + SCRIPT[:50])
    found = []
    for compiled in (True, False):
        with only(compiled):
            model = model_of(learned_N, contexts=contexts)
            found.append((
                *(np.concatenate([*scorer_of(m).token_logp(read_N)]) for m in (model, model.online())),
                np.stack([row for rows in rows_of(model, read_N[:30]) for row in rows]),
                *model.tables,
            ))  # fmt: skip
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4, rtol=1e-3)


def test_scores_are_those_of_whole_rows_also_while_it_learns():
    read_N = ids_of(SCRIPT)
    model = model_of(ids_of(TEXT[:400]), contexts=FEW)
    for reading in (model, Adaptive(model)):
        logp_N = np.concatenate([*scorer_of(reading).token_logp(read_N)])
        rows_NV = np.concatenate([*rows_of(reading, read_N)])
        np.testing.assert_allclose(rows_NV[np.arange(len(logp_N)), read_N[1:]], logp_N, atol=1e-5)
        np.testing.assert_allclose(np.exp(rows_NV).sum(1), 1, atol=1e-5)


def test_it_learns_from_what_it_reads_and_the_model_stays_as_it_was():
    model, text_N = model_of(ids_of(TEXT[:300]), contexts=("0", "1", "1-2")), ids_of(SCRIPT, SCRIPT)
    before = [table.copy() for table in model.tables]
    frozen, online = (np.concatenate([*scorer_of(m).token_logp(text_N)]) for m in (model, model.online()))
    assert online[len(SCRIPT) :].mean() > frozen[len(SCRIPT) :].mean() + 0.3
    assert all((one == other).all() for one, other in zip(before, model.tables, strict=True))


def test_a_text_matches_itself_though_nothing_is_learned():
    texts = [TEXT[at : at + 60] * 3 for at in range(0, 1200, 60)]
    model = model_of(ids_of(*texts), contexts=("0", "match4"), memory="16M")
    logp_N = np.concatenate([*scorer_of(model).token_logp(ids_of(SCRIPT[:40] * 4))])
    assert logp_N[60:160].mean() > logp_N[:40].mean() + 1


@pytest.mark.parametrize("counts", [[0, 0, 0, 1, 5, 9, 2, 2, 30], [0] * 6, [1] * 300])
def test_codes_of_a_tree_fill_it_and_common_tokens_are_short(counts):
    tree = huffman(np.array(counts))
    predicted = [v for v in range(len(counts)) if v not in NEVER_PREDICTED]
    assert sum(0.5 ** tree.length_V[v] for v in predicted) == pytest.approx(1)
    assert not tree.length_V[[*NEVER_PREDICTED]].any()
    assert tree.length_V[int(np.argmax(counts))] <= tree.length_V[predicted].min() or len({*counts}) == 1
    assert sorted({*zip(tree.group_N, tree.place_N, strict=True)}) == sorted(
        zip(tree.group_N, tree.place_N, strict=True)
    )


def test_what_contexts_mean():
    parsed = parse(("0", "1-3", "1+3", "fresh:word+1", "match4+1"))
    assert [row[row >= 0].tolist() for row in parsed.parts_KP][:3] == [
        [],
        [RECENT, RECENT + 1, RECENT + 2],
        [RECENT, RECENT + 2],
    ]
    assert parsed.rank_K.tolist() == [1, 2, 0, 0, 0]
    assert parsed.fresh_K.tolist() == [False, False, False, True, False]
    assert parsed.least_M.tolist() == [4]


@pytest.mark.parametrize(
    "name", ["", "x", "1-", "0-2", "3-1", "1-33", "like7", "match40", "match", "1++2", "fresh:", "match2-3"]
)
def test_a_context_that_is_none_is_refused_in_one_line(name):
    with pytest.raises(SettingError) as error:
        CM.Settings(contexts=(name,))
    assert "\n" not in str(error.value)


def test_kinds_of_tokens():
    spelled = [b"", b"", b"", b"", b"a", b"A", b" the", b"\n", b":", b"!", b"THE", b"the"]
    kind_V, like_V = kinds(spelled, len(spelled))
    assert kind_V[4:].tolist() == [1, 1, 2, 3, 4, 0, 1, 1]
    assert like_V[4] == like_V[5]
    assert like_V[11] != like_V[10]
    assert chosen(SPELLINGS) is CHARACTERS
    assert chosen([b""] * 4 + [b"word", b"other"]) is WORDS


@pytest.mark.parametrize(
    ("ids", "error"),
    [([], EmptyDataError), ([BOS], EmptyDataError), ([EOS], DataError), ([BOS, 0], DataError), ([BOS, 9], DataError)],
)
def test_ids_that_are_no_documents_are_refused(ids, error):
    with pytest.raises(error):
        CM.estimate(CM.Settings(), 8, np.array(ids, np.uint16))


def test_memory_is_kept_to_and_too_little_is_refused():
    ids_N = ids_of(TEXT[:1000])
    small, large = (model_of(ids_N, memory=memory, contexts=FEW) for memory in ("3M", "4M"))
    assert small.nbytes <= 3 << 20 < large.nbytes <= 4 << 20
    with pytest.raises(SettingError, match="memory"):
        model_of(ids_N, memory="100K")


def test_damaged_files_are_told(tmp_path):
    model = model_of(ids_of(SCRIPT), contexts=FEW)
    model.save(tmp_path)
    for name in ("slots", "mix_SCX", "count_V"):
        path = tmp_path / f"{name}.npy"
        whole = path.read_bytes()
        path.write_bytes(whole[:-8])
        with pytest.raises(ArtifactError):
            CM.load(tmp_path, model.settings, model.vocab_size)
        path.write_bytes(whole)
    for settings, size in ((dataclasses.replace(model.settings, selectors=()), model.vocab_size), (model.settings, 9)):
        with pytest.raises(ArtifactError):
            CM.load(tmp_path, settings, size)
    np.save(tmp_path / "recent_MR.npy", np.full_like(model.tables.recent_MR, 1 << 30))
    with pytest.raises(ArtifactError, match="recent_MR"):
        CM.load(tmp_path, model.settings, model.vocab_size).check()


def test_a_kind_that_is_not_told_spellings_is_asked_without():
    class Plain:
        @staticmethod
        def estimate(settings, vocab_size, ids_N):
            return vocab_size

    assert estimated(Plain, None, [b""] * 5, ids_of("")) == 5
