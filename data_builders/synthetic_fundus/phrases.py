"""How findings are worded, in English and in Chinese.

`{few}` takes an amount that fits the severity, `{cd}` the cup-to-disc ratio. A phrase affirms its
finding and no other one.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Phrases:
    """The wording of one language.

    Attributes:
      findings: phrases by label name, or by "label/variant" where the form matters.
      normal: statements about a normal eye.
      structures: statements that a structure is normal, each with the labels it would contradict.
      absent: names under which a finding's absence is reported, by label.
      negations: patterns around `{what}`.
      either: joins the last two names of a negation.
      amounts: words for few, some and many.
      separators: between the statements about one eye, each with the mark that ends them.
      headings: (right, left, both) as the writer calls them.
      gap: between the parts of a report.
      also: (pattern for what both eyes have, pattern for what one eye has beside it).
      missing: statements about an eye that was not photographed, by side.
      impressions: diagnoses by the labels that suggest them, the first match counts.
      impression_headings: what introduces the diagnosis.
      advice: closing remarks for patients without findings, with some, and with vascular ones.
      slips: usual slips of the keyboard and variants of spelling.
    """

    findings: Mapping[str, tuple[str, ...]]
    normal: tuple[str, ...]
    structures: tuple[tuple[str, frozenset[str]], ...]
    absent: Mapping[str, tuple[str, ...]]
    negations: tuple[str, ...]
    either: tuple[str, ...]
    amounts: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    separators: tuple[tuple[str, str], ...]
    headings: tuple[tuple[str, str, str], ...]
    gap: tuple[str, ...]
    also: tuple[str, ...]
    missing: Mapping[str, tuple[str, ...]]
    impressions: tuple[tuple[frozenset[str], tuple[str, ...]], ...]
    impression_headings: tuple[str, ...]
    advice: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    slips: Mapping[str, tuple[str, ...]]


_DISC = frozenset({"large_cup", "peripapillary_atrophy", "neovascularisation"})
_MACULA = frozenset({"drusen", "hard_exudates", "microaneurysms"})
VASCULAR = frozenset(
    {"neovascularisation", "retinal_haemorrhage", "microaneurysms", "cotton_wool_spots"}
)
_PROLIFERATIVE = frozenset({"microaneurysms", "neovascularisation"})

ENGLISH = Phrases(
    findings={
        "microaneurysms": (
            "{few} microaneurysms",
            "{few} microaneurysms at the posterior pole",
            "{few} microaneurysms (MA)",
            "microaneurysms seen at the posterior pole",
            "{few} tiny red dots, microaneurysms",
        ),
        "retinal_haemorrhage/blot": (
            "{few} retinal haemorrhages",
            "{few} blot haemorrhages",
            "{few} intraretinal haemorrhages",
            "retinal haemorrhage, blot type",
            "{few} patches of retinal haemorrhage",
        ),
        "retinal_haemorrhage/flame": (
            "{few} flame-shaped haemorrhages along the arcade",
            "flame-shaped retinal haemorrhage in one quadrant",
            "{few} flame haemorrhages",
            "retinal haemorrhages along the vein",
        ),
        "hard_exudates/circinate": (
            "circinate hard exudates at the macula",
            "ring of hard exudates around the fovea",
            "{few} hard exudates in a ring",
        ),
        "hard_exudates/scattered": (
            "{few} hard exudates near the macula",
            "{few} hard exudates",
            "{few} yellow hard exudates",
            "clusters of hard exudates at the posterior pole",
        ),
        "cotton_wool_spots": (
            "{few} cotton-wool spots",
            "{few} cotton wool spots (CWS)",
            "cotton-wool spots near the arcades",
            "{few} soft exudates (cotton-wool spots)",
        ),
        "neovascularisation/disc": (
            "neovascularisation of the disc",
            "neovascularisation at the disc (NVD)",
            "new vessels on the disc",
            "NVD, fine neovascularisation",
        ),
        "neovascularisation/elsewhere": (
            "neovascularisation elsewhere (NVE)",
            "neovascularisation along the arcade",
            "retinal neovascularisation",
            "tuft of new vessels off the arcade",
        ),
        "drusen": (
            "{few} drusen at the macula",
            "{few} macular drusen",
            "{few} soft drusen",
            "drusen in the macular area",
            "yellowish drusen around the fovea",
        ),
        "large_cup": (
            "large cup, C/D {cd}",
            "enlarged cup-to-disc ratio {cd}",
            "enlarged optic cup, C/D {cd}",
            "large optic cup, cup-to-disc ratio {cd}",
            "C/D enlarged, about {cd}",
            "large optic cup",
            "enlarged cup-to-disc ratio",
        ),
        "tessellation": (
            "tessellated fundus",
            "fundus tessellation",
            "tigroid tessellated fundus",
            "tessellation with visible choroidal vessels",
        ),
        "peripapillary_atrophy": (
            "peripapillary atrophy",
            "peripapillary atrophy (PPA) temporally",
            "crescent of peripapillary atrophy",
            "temporal PPA crescent",
        ),
        "hazy_media": (
            "hazy media",
            "hazy view, media opacity",
            "refractive media hazy, fundus seen dimly",
            "media opacity, details blurred",
            "hazy media with poor view",
        ),
        "laser_scars": (
            "laser scars in the mid-periphery",
            "{few} laser scars",
            "{few} old laser spots",
            "scars of panretinal laser photocoagulation",
            "PRP laser scars",
        ),
    },
    normal=(
        "normal fundus",
        "no abnormality seen",
        "fundus within normal limits",
        "unremarkable fundus",
        "normal disc, macula and vessels, C/D {cd}",
        "disc margin clear, C/D {cd}, macula normal",
        "no obvious abnormality of the fundus",
        "healthy fundus, C/D {cd}",
    ),
    structures=(
        ("disc margin clear, C/D {cd}", _DISC),
        ("C/D {cd}", _DISC),
        ("disc margin clear", _DISC),
        ("macula flat", _MACULA),
        ("foveal reflex present", _MACULA),
        ("vessels normal", VASCULAR),
        ("A/V about 2:3", VASCULAR),
    ),
    absent={
        "microaneurysms": ("microaneurysms",),
        "retinal_haemorrhage": ("haemorrhage", "retinal haemorrhage"),
        "hard_exudates": ("hard exudates",),
        "cotton_wool_spots": ("cotton-wool spots",),
        "neovascularisation": ("neovascularisation", "new vessels"),
        "drusen": ("drusen",),
    },
    negations=("no {what} seen", "no {what}", "without {what}", "no evidence of {what}"),
    either=(" or ",),
    amounts=(
        ("a few", "few", "occasional"),
        ("scattered", "some", "several"),
        ("multiple", "numerous", "many"),
    ),
    separators=((", ", "."), ("; ", "."), (". ", "."), (", ", "")),
    headings=(
        ("OD: ", "OS: ", "OU: "),
        ("Right eye: ", "Left eye: ", "Both eyes: "),
        ("right eye: ", "left eye: ", "both eyes: "),
        ("RIGHT EYE - ", "LEFT EYE - ", "BOTH EYES - "),
    ),
    gap=(" ", "\n", "  "),
    also=("also ", "in addition "),
    missing={
        "left": (
            "Left eye not photographed.",
            "OS: no image available.",
            "Left eye could not be imaged.",
        ),
        "right": (
            "Right eye not photographed.",
            "OD: no image available.",
            "Right eye could not be imaged.",
        ),
    },
    impressions=(
        (_PROLIFERATIVE, ("PDR", "proliferative diabetic retinopathy")),
        (frozenset({"microaneurysms"}), ("NPDR", "diabetic retinopathy", "DR")),
        (frozenset({"drusen"}), ("dry AMD", "early age-related macular degeneration")),
        (frozenset({"large_cup"}), ("glaucoma suspect", "glaucoma to be ruled out")),
        (frozenset({"tessellation"}), ("myopic fundus", "high myopia")),
        (frozenset({"hazy_media"}), ("cataract?", "suspected cataract")),
    ),
    impression_headings=("Impression: ", "Dx: ", "Diagnosis: ", "Imp: "),
    advice=(
        ("Review in one year.", "Routine follow-up.", "Annual screening."),
        (
            "Follow-up in six months.",
            "Refer to ophthalmology.",
            "Review in 3 months.",
        ),
        (
            "FFA advised.",
            "Suggest FFA.",
            "Refer to retina clinic.",
            "Review in 3 months.",
        ),
    ),
    slips={
        "haemorrhage": ("hemorrhage", "haemorrage"),
        "neovascularisation": ("neovascularization",),
        "microaneurysms": ("micro-aneurysms", "microaneursyms"),
        "cotton-wool": ("cotton wool",),
        "exudates": ("exudate",),
        "posterior": ("post.", "postrior"),
        "normal": ("nomal", "nornal"),
        "macula ": ("macular ",),
        "vessels": ("vesels",),
        "follow-up": ("f/u",),
        "scattered": ("scatterd",),
        "and ": ("& ",),
    },
)

CHINESE = Phrases(
    findings={
        "microaneurysms": (
            "{few}微血管瘤",
            "后极部{few}微血管瘤",
            "视网膜可见{few}微血管瘤",
            "{few}微动脉瘤(MA)",
        ),
        "retinal_haemorrhage/blot": (
            "视网膜{few}出血",
            "{few}斑片状视网膜出血",
            "可见{few}视网膜出血斑",
            "后极部{few}片状出血",
        ),
        "retinal_haemorrhage/flame": (
            "沿血管弓{few}火焰状出血",
            "视网膜火焰状出血",
            "{few}火焰状视网膜出血",
            "沿静脉视网膜出血",
        ),
        "hard_exudates/circinate": (
            "黄斑区环形硬性渗出",
            "黄斑周围环状硬性渗出",
            "中心凹旁硬性渗出呈环形",
        ),
        "hard_exudates/scattered": (
            "{few}硬性渗出",
            "后极部{few}硬性渗出",
            "黄斑附近{few}黄白色硬性渗出",
            "可见{few}硬渗",
        ),
        "cotton_wool_spots": (
            "{few}棉絮斑",
            "可见{few}棉绒斑",
            "血管弓旁{few}棉绒斑",
            "{few}软性渗出(棉绒斑)",
        ),
        "neovascularisation/disc": (
            "视盘新生血管",
            "视盘表面可见新生血管(NVD)",
            "视乳头新生血管形成",
        ),
        "neovascularisation/elsewhere": (
            "视网膜新生血管",
            "血管弓旁新生血管(NVE)",
            "视网膜可见新生血管形成",
        ),
        "drusen": (
            "黄斑区{few}玻璃膜疣",
            "{few}玻璃膜疣",
            "黄斑部可见{few}玻璃膜疣",
            "黄斑区{few}黄白色玻璃膜疣(drusen)",
        ),
        "large_cup": (
            "大视杯，C/D {cd}",
            "杯盘比增大，C/D {cd}",
            "视杯扩大，杯盘比约{cd}",
            "C/D增大约{cd}",
            "视盘杯盘比大，C/D={cd}",
            "大视杯",
            "杯盘比增大",
        ),
        "tessellation": (
            "豹纹状眼底",
            "眼底呈豹纹状改变",
            "豹纹状眼底改变",
            "豹纹状眼底，脉络膜血管透见",
        ),
        "peripapillary_atrophy": (
            "视盘周围萎缩",
            "视盘颞侧萎缩弧",
            "视盘旁萎缩弧(PPA)",
            "视盘周围萎缩弧",
        ),
        "hazy_media": (
            "屈光间质混浊",
            "屈光间质混浊，眼底窥不清",
            "屈光介质混浊，眼底模糊",
            "屈光间质欠清",
        ),
        "laser_scars": (
            "周边部激光斑",
            "可见{few}激光斑",
            "{few}陈旧激光斑",
            "视网膜激光光凝斑",
            "中周部{few}激光瘢痕",
        ),
    },
    normal=(
        "眼底未见明显异常",
        "眼底正常",
        "未见异常",
        "眼底大致正常，C/D {cd}",
        "视盘边界清，C/D {cd}，黄斑未见异常",
        "视盘、黄斑、血管未见异常",
        "正常眼底",
    ),
    structures=(
        ("视盘边界清，C/D {cd}", _DISC),
        ("C/D {cd}", _DISC),
        ("视盘边界清", _DISC),
        ("黄斑中心凹反光可见", _MACULA),
        ("血管走行正常", VASCULAR),
        ("A/V约2:3", VASCULAR),
    ),
    absent={
        "microaneurysms": ("微血管瘤",),
        "retinal_haemorrhage": ("出血", "视网膜出血"),
        "hard_exudates": ("硬性渗出",),
        "cotton_wool_spots": ("棉絮斑",),
        "neovascularisation": ("新生血管",),
        "drusen": ("玻璃膜疣",),
    },
    negations=("未见{what}", "未见明显{what}", "无{what}", "未发现{what}"),
    either=("及", "、", "或"),
    amounts=(("少许", "少量", "个别"), ("散在", "散在", ""), ("多发", "大量", "较多")),
    separators=(("，", "。"), ("；", "。"), ("，", ""), (",", ".")),
    headings=(
        ("右眼：", "左眼：", "双眼："),
        ("右眼:", "左眼:", "双眼:"),
        ("右眼", "左眼", "双眼"),
        ("OD：", "OS：", "OU："),
    ),
    gap=("", "", " ", "\n"),
    also=("另见", "并见"),
    missing={
        "left": ("左眼未拍摄。", "左眼无法拍照。", "左眼无图像。"),
        "right": ("右眼未拍摄。", "右眼无法拍照。", "右眼无图像。"),
    },
    impressions=(
        (_PROLIFERATIVE, ("增殖期糖网", "增殖性糖尿病视网膜病变")),
        (frozenset({"microaneurysms"}), ("糖网", "糖尿病视网膜病变", "DR")),
        (frozenset({"drusen"}), ("干性AMD", "年龄相关性黄斑变性")),
        (frozenset({"large_cup"}), ("可疑青光眼", "青光眼待排")),
        (frozenset({"tessellation"}), ("近视眼底改变", "高度近视")),
        (frozenset({"hazy_media"}), ("白内障？", "白内障可能")),
    ),
    impression_headings=("印象：", "诊断：", "初步诊断:", "考虑"),
    advice=(
        ("定期复查。", "建议一年后复查。", "随访。"),
        ("建议半年复查。", "建议眼科就诊。", "3个月后复查。"),
        ("建议FFA检查。", "建议行荧光造影。", "建议眼底病专科就诊。", "3个月后复查。"),
    ),
    slips={
        "视盘": ("视乳头", "视盤"),
        "未见": ("未见到",),
        "可见": ("见",),
        "渗出": ("滲出",),
        "混浊": ("浑浊",),
        "玻璃膜疣": ("玻膜疣",),
        "后极部": ("后极",),
        "黄斑区": ("黄斑",),
        "，": (",", " ", "， "),
        "。": (".", "", "。 "),
        "：": (":", " "),
    },
)

PHRASES: Mapping[str, Phrases] = {"en": ENGLISH, "zh": CHINESE}
