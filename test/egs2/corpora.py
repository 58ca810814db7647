# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Small copies of the corpora in their owners' layouts, with tones for audio.

Each function writes a corpus into a folder and returns what stage 1 shall make of it:
clips by data directory and utterance.
"""

import json
import random
from typing import Dict, NamedTuple, Optional, Tuple

from .conftest import write_tone


class Clip(NamedTuple):
    """A clip of a data directory; "" is in no file."""

    score: Optional[float]
    system: str = ""
    source: str = ""
    domain: str = ""
    votes: Optional[Tuple] = None  # sorted ((listener, score), ...)


Truth = Dict[str, Dict[str, Clip]]


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def mean(votes):
    return sum(score for _, score in votes) / len(votes)


def voicemos22(folder, domain, counts, wav=".wav", unlabelled=0) -> Truth:
    """A track of the VoiceMOS Challenge 2022: ratings in no order, and their means."""
    dice = random.Random(domain)
    listeners = [f"L{n}_id" if n == 3 else f"bZPQE7w4Zl{n}g" for n in range(12)]
    owners = {"train": ("TRAINSET", "train"), "dev": ("DEVSET", "val")}
    owners["test"] = ("TESTSET", "test")
    sets, truth = folder / "DATA" / "sets", {}
    for name, count in counts.items():
        file, short = owners[name]
        lines, means, truth[name] = [], [], {}
        for i in range(count):
            system = f"sys{domain}{i % 6:05x}"
            utt_id = f"{system}-utt{name[:2]}{i:05x}"
            votes = [(w, dice.randint(1, 5)) for w in dice.sample(listeners, 8)]
            means.append(f"{utt_id}.wav,{mean(votes)}")
            for n, (listener, score) in enumerate(votes):
                info = f"{{}}_30-39_{listener}_Female_Valid_1_No"
                lines.append(f"{system},{utt_id}{wav},{score},VDP1ovyr_{n},{info}")
            write_tone(folder / "DATA" / "wav" / f"{utt_id}.wav", hertz=100 + 20 * i)
            votes = tuple(sorted(votes))
            truth[name][utt_id] = Clip(mean(votes), system, "", domain, votes)
        dice.shuffle(lines)
        write_lines(sets / file, [*lines, ""])
        write_lines(sets / f"{short}_mos_list.txt", means)
    ids = [f"sys0000f-uttu{i:04x}" for i in range(unlabelled)]
    for utt_id in ids:
        write_tone(folder / "DATA" / "wav" / f"{utt_id}.wav")
    if ids:
        write_lines(sets / "unlabeled_mos_list.txt", [f"{u}.wav" for u in ids])
        nothing = {u: Clip(None, "sys0000f", "", domain) for u in ids}
        truth["train_unlabelled"] = {**truth["train"], **nothing}
    return truth


def bvcc(folder) -> Truth:
    return voicemos22(folder, "bvcc", {"train": 30, "dev": 12, "test": 18})


def vmc22_ood(folder, test=6) -> Truth:
    counts = {"train": 4, "dev": 3, "test": test}
    return voicemos22(folder, "bc19", counts, wav="", unlabelled=5)


def somos(folder, nested=False, counts=(9, 3, 6)) -> Truth:
    truth, number = {}, 0
    audio = folder / "audios" / "audios" if nested else folder / "audios"
    sentences = ("novel_2007_0098", "LJ003-0012", "wiki_general_00214")
    for owners, name, count in zip(
        ("train", "valid", "test"), ("train", "dev", "test"), counts
    ):
        for i in range(count):
            number += 1
            system = f"{(number * 5) % 201:03d}" if i else "000"
            sentence = f"{sentences[i % 3]}{number:02d}"
            utt_id = f"{sentence}_{system}"
            write_tone(audio / f"{utt_id}.wav", 0.2, 24000, 100 + 9 * number)
            scores = [1 + (i + v) % 5 for v in range(17)]
            for ending, given in (("_full", scores), ("", scores[::2])):
                votes = [(f"KEXM49572{v:05d}", s) for v, s in enumerate(given)]
                clip = Clip(mean(votes), f"somos{system}", sentence, "somos")
                clips = truth.setdefault(name + ending, {})
                clips[utt_id] = clip._replace(votes=tuple(votes))
        for subset, ending in (("full", "_full"), ("clean", "")):
            clips = truth[name + ending]
            votes = [
                f"{c.system[5:]},{u}.wav,{score},{who}"
                for u, c in clips.items()
                for who, score in c.votes
            ]
            means = [f"{u}.wav,{c.score}" for u, c in clips.items()]
            lists = folder / "training_files" / "split1" / subset
            head = "systemId,utteranceId,choice,listenerId"
            write_lines(lists / f"{owners.upper()}SET", [head, *votes])
            path = lists / f"{owners}_mos_list.txt"
            write_lines(path, ["utteranceId,mean", *means])
    return truth


NISQA_COLUMNS = (
    "db,con,file,con_description,filename_deg,filename_ref,source,lang,votes,mos,noi,"
    "col,dis,loud,noi_std,col_std,dis_std,loud_std,mos_std,filepath_deg,filepath_ref,"
    "filter"
)
# By data directory and database: file, condition and reference.
NISQA_FILES = {
    ("train", "NISQA_TRAIN_SIM"): [("c03267_book_09653_seg", 3267, "book_09653")],
    ("train", "NISQA_TRAIN_LIVE"): [("book_00162_live_skype_12", 12, "book_00162")],
    ("dev", "NISQA_VAL_SIM"): [("c2500_som_08784_seg", 2500, "som_08784_seg")],
    ("dev", "NISQA_VAL_LIVE"): [("book_03558_live_phone_204", 204, "book_03558")],
    ("test_for", "NISQA_TEST_FOR"): [
        (f"c{c:05d}_for_cnv_{t}", c, f"for_cnv_{t}")
        for c in (1, 2)
        for t in ("f_0036_01", "m_0068_01")
    ],
    ("test_p501", "NISQA_TEST_P501"): [
        (f"c000{c}_P501_C_english_{t}_FB_48k", c, f"P501_C_english_{t}")
        for c in (10, 33)
        for t in ("f1", "m1")
    ],
    ("test_livetalk", "NISQA_TEST_LIVETALK"): [
        (f"c{c}_{t}", c, "") for c in (16, 53) for t in ("f2", "m2")
    ],
}


def nisqa(folder) -> Truth:
    truth = {}
    for (name, database), files in NISQA_FILES.items():
        rows, clips = [NISQA_COLUMNS], truth.setdefault(name, {})
        for n, (stem, con, reference) in enumerate(files):
            path = folder / database / "deg" / f"{stem}.wav"
            write_tone(path, 0.2, 48000, 100 + 20 * n)
            mos = round(1 + 31 * (n + len(database)) % 40 / 10, 9)
            system = f"{database}_con{con}"
            clips[f"{database}_{stem}"] = Clip(mos, system, reference, database)
            # Some files of the owner have a description with a comma in quotes.
            reference = reference and f"{reference}.wav"
            rows.append(
                f'{database},{con},{n},"amrnb, 2 frames",{stem}.wav,{reference},src,'
                f"en,5,{mos},3,3,3,3,1,1,1,1,0.7,{database}/deg/{stem}.wav,,"
            )
        write_lines(folder / database / f"{database}_file.csv", rows)
    return truth


def pstn(folder) -> Truth:
    clips, lines = {}, ["filename,MOS,std,95%CI,votes"]
    for n in range(20):
        write_tone(folder / f"{n:08d}_clean.wav", 0.2, 8000, 100 + 20 * n)
        clips[f"pstn_{n:08d}_clean"] = Clip(1 + n / 5, domain="pstn")
        lines.append(f"{n:08d}_clean.wav,{1 + n / 5},0.5,0.4,5")
    write_lines(folder / "pstn_train.csv", lines)
    return {"train+dev": clips}


def tencent(folder) -> Truth:
    clips = {}
    for name, pattern, domain in (
        ("without", "withoutReverberationTrainDev/{:05d}", "tencent"),
        ("with", "withReverberationTrainDevMOS/{:04d}", "tencent_reverberant"),
    ):
        lines = ["deg_wav,mos"]
        for n in range(20):
            path = pattern.format(n)
            write_tone(folder / f"{path}.wav", hertz=100 + 10 * n + 5 * len(clips))
            mos = round(1 + 3.9 * n / 20, 9)
            clips[path.replace("/", "_")] = Clip(mos, domain=domain)
            lines.append(f"./{path}.wav,{mos}")
        # The owner's file ends in an empty line.
        write_lines(folder / f"{name}ReverberationTrainDevMOS.csv", [*lines, ""])
    return {"train+dev": clips}


def singmos(folder, prefix="voicemos2024-track2-", ending="") -> Truth:
    truth = {}
    for owners, name, count in (
        ("train", "train", 6),
        ("val", "dev", 3),
        ("eval", "test", 4),
    ):
        lines, truth[name] = [], {}
        for n in range(count):
            system = f"sys{n % 3:04d}"
            short = f"{system}-utt{owners[0]}{n:03d}"
            utt_id = f"voicemos2024-track2-{short}"
            mos = 1 + (n * 7 % 17) / 4
            truth[name][utt_id] = Clip(mos, system, "", "singmos")
            lines.append(f"{prefix}{short}{ending},{mos:.6f}")
            write_tone(folder / "wav" / f"{utt_id}.wav", hertz=100 + 20 * n)
        write_lines(folder / "sets" / f"{owners}_mos_list.txt", lines)
    return truth


TMHINT_COLUMNS = (
    "idx,method,uttr,snr,noise,quality_score,intelligibility_score,file_name"
)


def tmhint_qi(folder, subjects=True) -> Truth:
    """``subjects``: idx says who voted; otherwise it numbers the rows."""
    rows, truth, number = [TMHINT_COLUMNS], {"train+dev": {}, "test": {}}, 0
    methods = (
        ("FCN", "5", "white", "FCN-SNR5-white"),
        ("Trans", "-2", "babble", "Trans-SNR-2-babble"),
        ("clean", "", "", "clean"),
    )
    for name, owners, sentences in (("train+dev", "train", 10), ("test", "test", 2)):
        for s in range(sentences):
            uttr = f"TMHINT_{'bg'[s % 2]}{1 + s % 4}_{20 + s}_{owners}"
            for method, snr, noise, system in methods:
                utt_id = "_".join(p for p in (noise, snr, method, uttr) if p)
                write_tone(folder / owners / f"{utt_id}.wav", hertz=100 + number)
                start = f"{method},{uttr},{snr},{noise}"
                votes = []
                for subject in range(2 + s % 2):
                    number += 1
                    votes.append((f"subject{10 + subject}", 1 + (number * 7) % 5))
                    who = 10 + subject if subjects else number
                    rows.append(f"{who},{start},{votes[-1][1]},8,{utt_id}")
                # Intelligibility alone is no vote.
                rows.append(f"99,{start},,9,{utt_id}")
                clip = Clip(mean(votes), system, domain="tmhint_qi")
                if subjects:
                    clip = clip._replace(votes=tuple(votes))
                truth[name][utt_id] = clip
    write_lines(folder / "raw_data.csv", rows)
    return truth


def urgent24(folder) -> Truth:
    rows = ["wav_path,system_id,sample_id,sampling_rate,score,raw_ratings"]
    clips = {}
    for n, system in enumerate(("noisy", "P426", "P17")):
        for recording in ("fileid_3", "fileid_184"):
            name = f"{system}-{recording}"
            write_tone(folder / "wavs" / f"{name}.wav", hertz=100 + 50 * len(clips))
            ratings = [1 + (n + k + len(clips)) % 5 for k in range(8)]
            mos = sum(ratings) / 8
            clips[name] = Clip(mos, system, recording, "urgent24")
            rows.append(f'wavs/{name}.wav,{name},{name},16000,{mos},"{ratings}"')
    write_lines(folder / "metadata.csv", rows)
    return {"test": clips}


def bvrnn(folder) -> Truth:
    rows, clips = ["signal,condition,ratings,participant_ids,file"], {}
    codecs = ("Proposed 1.38", "Proposed 1.38 16kHz", "Lyra 3", "Reference")
    for s, signal in enumerate(("VCTK_p229_293", "TSP_FB07_09"), 1):
        for c, codec in enumerate(codecs):
            file = f"stim_{s:02d}/codec_{c}.wav"
            write_tone(folder / "audio" / file, 0.2, 48000, 100 * s + 10 * c)
            votes = {p: 10.0 * ((p + c) % 11) for p in (2, 3, 5, 8)}
            lists = f'"{json.dumps([*votes.values()])}","{json.dumps([*votes])}"'
            rows.append(f"{signal},{codec},{lists},{file}")
            votes = tuple((f"participant{p}", v) for p, v in votes.items())
            clip = Clip(mean(votes), codec.replace(" ", "_"), signal, "bvrnn", votes)
            clips[f"bvrnn_stim_{s:02d}_codec_{c}"] = clip
        # An anchor, whose audio was not published.
        rows.append(f'{signal},Anchor,"[3.0, 4.0]","[2, 3]",')
    write_lines(folder / "ratings_formated_filtered.csv", rows)
    return {"test": clips}


def vocal_separation(folder, keep_mixture=False) -> Truth:
    head = "is_replicate,page,page_duration,rating,sound,url,on_web,experiment,subject"
    rows, clips = [head], {}
    systems = {"ref": "reference", "Quality": "quality_anchor", "HUA": "HUA"}
    systems["Interferer"] = "mixture"
    for p, page in enumerate(("vocals-10-SIR", "vocals-47-SAR")):
        for n, (sound, system) in enumerate(systems.items()):
            path = folder / "site" / "sounds" / page / f"{sound}.flac"
            write_tone(path, 0.2, 44100, 100 + 50 * p + 10 * n)
            votes = []
            for k, subject in enumerate("HMU"):
                rating = (37 * (k + 1) + 11 * n + p) % 101
                end = f"{sound},x.wav,False"
                # A listener had one page twice; and there was another task.
                again = (p, subject) == (1, "U")
                rows.append(f"{again},{page},9.5,{rating},{end},quality,{subject}")
                if again:
                    rows.append(f"True,{page},9.5,{rating},{end},quality,{subject}")
                else:
                    votes.append((f"subject{subject}", rating))
                rows.append(f"False,{page},9.5,50,{end},interferer,{subject}")
            votes = tuple(votes)
            clip = Clip(mean(votes), system, page, "vocal_separation", votes)
            if keep_mixture or system != "mixture":
                clips[f"voc_{page}_{sound}"] = clip
    write_lines(folder / "data" / "ratings.csv", rows)
    return {"test": clips}


# Names as the owner gives them: set, system, source; None is no clip of the challenge.
VMC23_NAMES = {
    "VoiceMOS2023Track1-A-AD_test_0026": ("track1b", "A-AD", "test_0026"),
    "VoiceMOS2023Track1-BF-NEB_test_0255": ("track1a", "BF-NEB", "test_0255"),
    "VoiceMOS2023Track1-BF-NEB_test_0680": ("track1a", "BF-NEB", "test_0680"),
    "VoiceMOS2023Track2-B01-SF1-CDF1-30001": ("track2", "B01", "SF1-30001"),
    "VoiceMOS2023Track2-TAR-IDF1-IDF1-30003": ("track2", "TAR", "IDF1-30003"),
    "VoiceMOS2023Track3-Noisy_snr5_white_TMHINT_g4_32_03": (
        *("track3", "Noisy_snr5_white", "g4_32_03"),
    ),
    "VoiceMOS2023Track3-CMGAN_snr-2_babble_TMHINT_b2_21_02": (
        *("track3", "CMGAN_snr-2_babble", "b2_21_02"),
    ),
    "VoiceMOS2023Track3-clean_TMHINT_b1_01_03": ("track3", "clean", "b1_01_03"),
    "VoiceMOS2023Track3-TMHINT_b1_02_02": None,
}


def vmc23(folder, answers="answers") -> Truth:
    truth, lines = {}, {"track1": [], "track2": [], "track3": []}
    for n, (name, facts) in enumerate(VMC23_NAMES.items()):
        track = name[: len("VoiceMOS2023Track1")][-6:].lower()
        mos = 1 + (n * 11 % 29) / 7
        lines[track].append(f"{name},{mos!r}")
        write_tone(folder / track / f"{name}.wav", hertz=100 + 20 * n)
        if facts is not None:
            clip = Clip(mos, *facts[1:], f"vmc23_{facts[0]}")
            truth.setdefault(facts[0], {})[name] = clip
    for track in lines:
        path = folder / answers.format(track) / f"{track}_answer.txt"
        write_lines(path, lines[track])
    return truth


def one_track(folder, track, place="") -> Truth:
    """A track of 2023 alone, as bc23 and svcc23 take it."""
    names = [name for name in VMC23_NAMES if track in name]
    lines, truth = [], {}
    for n, name in enumerate(names):
        write_tone(folder / place / f"{name}.wav", hertz=100 + 20 * n)
        set_name, *facts = VMC23_NAMES[name]
        clip = Clip(2 + n / 2, *facts, f"vmc23_{set_name}")
        truth.setdefault(set_name, {})[name] = clip
        lines.append(f"{name},{clip.score}")
    write_lines(folder / "answer.csv", lines)
    return truth


def bc23(folder, place="") -> Truth:
    return one_track(folder, "Track1", place)


def svcc23(folder, place="") -> Truth:
    return one_track(folder, "Track2", place)
