"""Everything that the page says, in English and Chinese."""

from typing import NamedTuple

from retfm_jax.knowledge.laterality import Side
from retfm_jax.knowledge.vocabulary import LANGUAGES, load_vocabulary
from retfm_jax.rendering import markup


class Words(NamedTuple):
    """A text in both languages.

    Attributes:
      en, zh: English and simplified Chinese.
    """

    en: str
    zh: str

    def __str__(self) -> str:
        return self.en if self.en == self.zh else f"{self.en} {self.zh}"

    def filled(self, **values: object) -> "Words":
        """The text with its places filled.

        Args:
          values: what stands in the places, by name; `Words` are taken in each language.
        """
        parts = (
            text.format(
                **{
                    name: getattr(value, language) if isinstance(value, Words) else value
                    for name, value in values.items()
                }
            )
            for language, text in zip(LANGUAGES, self, strict=True)
        )
        return Words(*parts)

    def html(self) -> str:
        """Both languages as HTML, escaped and marked with their languages."""
        if self.en == self.zh:
            return markup.own(self.en)
        return (
            f'<span lang="en">{markup.text(self.en)}</span> '
            f'<span lang="zh-Hans">{markup.text(self.zh)}</span>'
        )


def class_name(name: str) -> Words:
    """Name of a class in both languages, by the vocabulary; a class of one's own keeps its name.

    Args:
      name: id, name or synonym of a condition, or any other name.
    """
    condition = load_vocabulary().find(name)
    if condition is None:
        return Words(name, name)
    return Words(condition.name["en"], condition.name["zh"])


TITLE = Words("Retinal photographs", "眼底照片")
NOTICE = Words(
    "For research only. Not a medical device: nothing here is a diagnosis, and nobody may be "
    "treated or sent away because of it.",
    "仅供研究使用。本页不是医疗器械，其内容不是诊断，不得据此对任何人作出诊疗决定。",
)
PRIVACY = Words(
    "Photographs stay on the machine that runs this page, in its memory, for {minutes} minutes at "
    "most. Nothing is written to a disk or sent anywhere.",
    "照片只保存在运行本页的计算机内存中，最多 {minutes} 分钟；不写入磁盘，也不发送到任何地方。",
)
EYES: dict[Side, Words] = {
    "right": Words("Right eye (OD)", "右眼"),
    "left": Words("Left eye (OS)", "左眼"),
}
BOTH_EYES = Words("Both eyes", "双眼")
CHOOSE = Words("Choose or drop a photograph", "选择或拖入照片")
REMOVE = Words("Remove", "移除")
READING = Words("Reading …", "读取中……")
LANGUAGE_OF_PROMPTS = {
    "en": Words("English prompts", "英文提示词"),
    "zh": Words("Chinese prompts", "中文提示词"),
}
CLASSES = Words("Conditions that are compared", "参与比较的病症")
TARGET = Words("Heat map of", "热力图对象")
LIKELIEST = Words("the likeliest", "可能性最大者")
ASK = Words("Ask the network", "询问网络")
EXAMPLE = Words("Generated example", "生成的示例")
PROBABILITIES = Words("Probabilities", "概率")
EXCLUSIVE = Words(
    "The classes exclude each other: each column adds up to 100%.", "各类互斥：每列之和为 100%。"
)
GRADES = Words(
    "The classes are grades, in their order: each column adds up to 100%.",
    "各类为有序分级：每列之和为 100%。",
)
FINDINGS = Words(
    "Findings may occur together: each has a probability of its own.",
    "各征象可同时出现：每项有各自的概率。",
)
CLASS = Words("Class", "类别")
PREDICTED = Words("Predicted", "预测")
NOTHING_PREDICTED = Words("none of the classes", "无")
SETS = Words(
    "Set with {coverage:.0%} coverage on patients like those it was fitted on",
    "预测集（在与拟合人群相似的患者中覆盖率 {coverage:.0%}）",
)
HEAT_MAP = Words("Heat map: {target}", "热力图：{target}")
CAVEAT = Words(
    "A map shows where the network looks, as far as a map can tell. It is no evidence of disease.",
    "热力图仅在方法所及范围内显示网络关注的区域，不构成疾病证据。",
)
CASES = Words("Nearest cases of {dataset}, {split}", "{dataset}（{split}）中最相近的病例")
CASE = Words("cosine {cosine:.3f}", "余弦相似度 {cosine:.3f}")
NO_LABEL = Words("no label", "无标签")
REPORTS = Words("Nearest reports", "最相近的报告")
NO_FUNDUS = Words(
    "{eye}: this does not look like a color fundus photograph, so that the answer means nothing "
    "(by a rule that is not validated).",
    "{eye}：该图像不像彩色眼底照片，因此结果没有意义（所用规则未经验证）。",
)
LOW_QUALITY = Words(
    "{eye}: the photograph is of low quality (sharpness {sharpness:.2f}, illumination "
    "{illumination:.2f}, field {field:.2f}; thresholds are not validated).",
    "{eye}：照片质量较低（清晰度 {sharpness:.2f}，照明 {illumination:.2f}，视野 {field:.2f}；"
    "阈值未经验证）。",
)
OTHER_EYE = Words(
    "{eye}: by the place of the optic disc this may be the other eye. A guess.",
    "{eye}：根据视盘位置，可能是另一只眼。仅为猜测。",
)
PROBLEM = Words("This did not work", "未能完成")

NO_PHOTOGRAPH = Words("Choose a photograph of one eye or of both.", "请选择一只眼或双眼的照片。")
FORGOTTEN = Words(
    "The photograph is no longer kept here: choose it again.", "照片已不再保留，请重新选择。"
)
EMPTY = Words("The file is empty: choose another one.", "文件为空，请选择其他文件。")
TOO_LARGE = Words(
    "The file is larger than {megabytes} MB: choose a smaller one.",
    "文件超过 {megabytes} MB，请选择较小的文件。",
)
NO_IMAGE = Words(
    "The file is no photograph that can be read: JPEG, PNG, TIFF, BMP, WebP, PNM, GIF, JPEG 2000 "
    "or DICOM wanted, whatever its name says.",
    "无法将该文件作为照片读取：需要 JPEG、PNG、TIFF、BMP、WebP、PNM、GIF、JPEG 2000 或 DICOM "
    "格式（以内容为准，不看文件名）。",
)
DAMAGED = Words(
    "The photograph is damaged or cut short: choose another file.",
    "照片已损坏或不完整，请选择其他文件。",
)
TOO_MANY_PIXELS = Words(
    "The picture has more than {most} megapixels: scale it down first.",
    "图像超过 {most} 百万像素，请先缩小。",
)
TOO_SMALL = Words(
    "The picture has {width} x {height} pixels: too small for a photograph of a retina.",
    "图像为 {width} x {height} 像素：对眼底照片而言太小。",
)
SEVERAL_FRAMES = Words(
    "The file has several pages or frames: save the photograph as one picture.",
    "文件包含多页或多帧，请将照片另存为单幅图像。",
)
FLAT = Words(
    "The picture has one value everywhere: nothing can be seen on it.",
    "图像各处数值相同，看不到任何内容。",
)
BUSY = Words("Others are being answered: try again in a moment.", "正在处理其他请求，请稍后再试。")
SLOW = Words("The upload took too long: try again.", "上传耗时过长，请重试。")
CLASSES_WANTED = Words(
    "Choose {least} to {most} conditions to compare.", "请选择 {least} 至 {most} 个病症进行比较。"
)
UNKNOWN_CLASS = Words(
    "There is no such class here: choose among those of the page.",
    "没有该类别，请在页面所列中选择。",
)
UNUSABLE = Words(
    "The network gives no finite numbers for this photograph: its weights or the picture are "
    "damaged.",
    "网络对该照片未给出有限数值：权重或图像已损坏。",
)
FAILED = Words(
    "The program failed at this request; its terminal says more.",
    "处理该请求时程序出错，详情见其终端。",
)
UNREACHED = Words("The program does not answer: is it still running?", "程序无响应，是否仍在运行？")
