"""The words around findings in a report: what denies, doubts, places, dates or advises.

Written as reports write them, in the spelling of `normalize.fold`. A longer cue wins over a
shorter one at the same position, so an exception ("cannot be ruled out") is an entry of its own.
"""

import enum
import itertools

from retfm_jax.knowledge.laterality import (
    BARE,
    BOTH,
    BOTH_IN_CAPITALS,
    EYES,
    IN_CAPITALS,
    LEFT,
    OTHER,
    OTHER_EYE,
    RIGHT,
    both_eyes,
)


class Cue(enum.IntEnum):
    """Role of a token in a report."""

    CONDITION = enum.auto()
    ABBREVIATION = enum.auto()  # of a condition; counts in capitals only
    SIGN = enum.auto()  # "(-)", "(+)" behind a finding
    NEGATION = enum.auto()  # of what follows; of what precedes where nothing follows
    NEGATED = enum.auto()  # of what precedes
    DOUBT = enum.auto()  # of what follows or precedes
    QUESTION = enum.auto()  # the mark
    VERSUS = enum.auto()  # doubts what stands on both sides of it
    ASSERTION = enum.auto()  # ends a negation, before what it asserts
    ASSERTED = enum.auto()  # ends a negation, after what it asserts
    CONTRAST = enum.auto()
    AND = enum.auto()
    OR = enum.auto()
    COMMA = enum.auto()
    COLON = enum.auto()
    SIDE = enum.auto()
    SIDE_CAPITALS = enum.auto()
    BARE_SIDE = enum.auto()  # "left" is a side only beside what has sides
    AMOUNT = enum.auto()
    GRADE = enum.auto()
    STAGE = enum.auto()  # a case of the condition named before
    ADVICE = enum.auto()  # what follows is advice
    ADVISED = enum.auto()  # what precedes is advice
    PROCEDURE = enum.auto()  # an examination or treatment that an advice may speak of
    SERVICE = enum.auto()  # makes the condition before it a purpose: "cataract surgery"
    PURPOSE = enum.auto()  # goes on with an advice after a comma
    HISTORY = enum.auto()  # what follows was
    FAMILY = enum.auto()  # what follows is somebody else's
    HISTORY_NEXT = enum.auto()  # the very next condition was
    HISTORY_LAST = enum.auto()  # what precedes was
    HEADING = enum.auto()  # "Impression:" ends what a side heading governs
    CUP = enum.auto()
    NORMAL = enum.auto()
    NORMAL_PART = enum.auto()
    ABNORMAL = enum.auto()
    ANATOMY = enum.auto()
    PREPOSITION = enum.auto()
    NUMBER = enum.auto()  # a decimal number
    IGNORED = enum.auto()


PRESENT, ABSENT, UNCERTAIN = "present", "absent", "uncertain"
DISC, MACULA, VESSELS, FUNDUS = "disc", "macula", "vessels", "fundus"

CUES: dict[Cue, str] = {
    Cue.NEGATION: """
        w/o | w/out | w / o | wo | neg for | neg. for | no e/o | no s/o | no evidence for |
        no evidence | isn't | aren't | wasn't | weren't | doesn't | don't | didn't | hasn't |
        haven't | hadn't | doesn't have | don't have | doesn't show | don't show | didn't show |
        didn't see | don't see | can't see | cannot see | can not see | could not see |
        couldn't see | cannot find | can't find | could not find | couldn't find | did not find |
        did not see | was not | were not | has no | have no | had no | shows no | zero | ø | Ø |
        nil | absent | clear of | fails to reveal | failed to show | failed to reveal |
        failed to demonstrate | does not demonstrate | does not reveal | negatives |
        pertinent negatives | no history of | no h/o | no hx of | no hx | no prior history of |
        denies history of | denies any history of | denied history of | no previous |
        no previous history of | no known | ruled out for | unlikely to be | is not likely |
        not likely | no suspicion of | no suspicion for | no concern for | without evidence of |
        without any | without signs of | without sign of | no visible | no apparent |
        no discernible | no detectable | not any | by no means |
        未患 | 不存在 | 不是 | 没看到 | 没有看到 | 没有发现 | 没有见到 | 没见到 | 暂无 | 暂未见 |
        尚无 | 尚未见 | 并未见 | 并没有 | 未再见 | 未闻及 | 未触及 | 未扪及 | 未显见 | 未获 |
        不具备 | 不属于 | 未出现明显 | 未发现明显 | 未见显著 | 无显著 | 无可见 | 毫无 | 均没有 |
        均未发现 | 均未见明显 | 均无明显 | 皆无 | 皆未见 | 阴性体征 |
        rather than | instead of | as opposed to | inconsistent with | incompatible with |
        not compatible with | not in keeping with | argues against | argue against |
        speaks against | goes against | against | nothing to suggest | nothing to indicate |
        nothing suggestive of | nothing indicative of | no suggestion of | no hint of |
        resolution of | complete resolution of | disappearance of | clearance of |
        不合并 | 不伴发 | 不再有 | 不再见 | 不再 | 不像 | 不太像 | 不能诊断 | 不足以诊断 |
        no | not | nor | without | with no | free of | free from | negative for | absence of |
        lack of | lacks | no evidence of | no signs of | no sign of | no definite | no obvious |
        denies | denied | deny | does not show | do not show | did not show | does not have |
        fails to show | not consistent with | not suggestive of | not see | no longer | never |
        neither | exclude | excludes | excluding | rules out | ruled out | devoid of | is not |
        are not | no more | unlikely | none of | 未见 | 末见 | 未见到 | 未见有 | 未见到明显 |
        未能见 | 未能见到 | 没见 | 未见明显 | 未见确切 | 未见明确 | 无 | 无明显 | 无明确 | 没有 |
        未发现 | 未查见 | 未检出 | 未检见 | 未及 | 未显示 | 未出现 | 未有 | 未伴 | 未合并 | 否认 |
        不伴 | 不伴有 | 未提示 | 排除 | 已排除 | 不见 | 未观察到 | 未窥见 | 未探及 | 不支持 |
        不考虑 | 不符合 | 未明确 | 非 | 并无 | 未曾见 | 无确切 | 未诊断 | 未看到 | 看不到 |
        无任何 | 没发现 | 均未见 | 均无 | 未见任何
    """,
    Cue.NEGATED: """

        neg | neg. | negatives found | n't seen | not there | not apparent | not discernible |
        not detectable | not appreciable | cannot be found | could not be found |
        couldn't be found | couldn't be seen | can't be seen | can't be found | no longer seen |
        no longer visible | no longer present | no more | is negative | are negative |
        was negative | tested negative | false | is excluded | was excluded | were excluded |
        are excluded | have been excluded | has been excluded | not likely | gone | 否 | 未见 |
        阴 | 没有 | 已经排除 | 予排除 | 被排除 | 未发现 | 不存在 | 已排除 | 基本排除 | 不考虑 |
        not seen | not present | not detected | not visible | not observed | not found |
        not noted | not evident | not identified | absent | are absent | is absent | negative |
        has been ruled out | have been ruled out | was ruled out | were ruled out | is ruled out |
        are ruled out | excluded | resolved | has resolved | have resolved | has cleared |
        have cleared | disappeared | ( ) | none | nil | is unlikely | are unlikely |
        regressed completely | not demonstrated | not appreciated | been excluded |
        cannot be seen | can not be seen | could not be seen | cannot be detected | 阴性 |
        已吸收 | 完全吸收 | 消退 | 已消退 | 消失 | 已消失 | 已除外 | 未查及 | 可排除 | 已愈 |
        不明显 | 吸收完全 | 不再可见 | 不成立 | 已闭合 | 闭合良好 | 已封闭 | 已愈合 | 已复位 |
        复位良好 | closed | has closed | is closed | now closed | reattached | cleared
    """,
    Cue.DOUBT: """
        suspected | suspect | suspects | suspicion of | suspicion for | suspicious |
        suspicious for | suspicious of | possible | possibly | possibility of | probable |
        probably | likely | questionable | query | presumed | presumably | may be | might be |
        may represent | may have | could be | could represent | could have | maybe | perhaps |
        cannot exclude | can not exclude | can't exclude | couldn't exclude | could not exclude |
        can't rule out | couldn't rule out | could not rule out | can't be excluded |
        can't be ruled out | couldn't be excluded | couldn't be ruled out | may not be excluded |
        have not been excluded | have not been ruled out | has not been ruled out |
        hasn't been ruled out | hasn't been excluded | haven't been excluded | not yet ruled out |
        not yet excluded | does not exclude | does not rule out | doesn't exclude |
        doesn't rule out | do not exclude | do not rule out | did not rule out | did not exclude |
        unable to exclude | unable to rule out | not able to exclude | not able to rule out |
        impossible to exclude | difficult to exclude | hard to exclude | not excluding |
        not ruling out | ruling out | to r/o | cannot deny | can not deny | can't deny | poss |
        poss. | prob | prob. | susp | susp. | ? of | s/o | concern for | concerning for |
        concerns for | worrisome for | suspicious of | whether | whether or not | is unclear |
        unclear | unclear if | unclear whether | not sure if | not sure whether | uncertain if |
        uncertain whether | not clear if | not clear whether | unsure if | unsure | inconclusive |
        indeterminate | not confirmed | unconfirmed | to be confirmed | working diagnosis |
        provisional diagnosis | appears to be | appear to be | looks like | resembles |
        potential | in question | cannot be excluded | can not be excluded |
        not excluded | cannot rule out | can not rule out | cannot be ruled out |
        can not be ruled out | not ruled out | could not be excluded | could not be ruled out |
        has not been excluded | not been ruled out | rule out | r/o | to be ruled out |
        to be excluded | to rule out | should be ruled out | suggestive of | suggesting |
        suggests | suggest | suggestive | consider | considered | considering | consideration of |
        differential diagnosis | equivocal | doubtful | uncertain | borderline | ddx | seems |
        apparently | not certain | needs to be excluded | must be excluded | impression of |
        raises suspicion of | 可疑 | 疑似 | 疑 | 怀疑 | 疑为 | 疑有 | 可能 | 可能性大 | 可能为 |
        可能性 | 不除外可能 | 考虑 | 考虑为 | 考虑有 | 考虑可能 | 待排 | 待排除 | 待排查 | 待查 |
        待除外 | 待诊 | 待定 | 不除外 | 不能除外 | 不能排除 | 不排除 | 未排除 | 未除外 | 无法排除 |
        无法除外 | 不能完全排除 | 尚不能排除 | 尚不能除外 | 似见 | 似有 | 似可见 | 似乎 | 倾向 |
        拟诊 | 警惕 | 需排除 | 需除外 | 需与 | 性质待定 | 或许 | 也许 | 大概 | 似为 | 疑诊 |
        不确定 | 不肯定 | 是否 | 有无 | 有否 | 是否有 | 是否存在 | 能否 | 是不是 | 有没有 |
        难以排除 | 难以除外 | 难以完全排除 | 不能完全除外 | 尚未排除 | 尚未除外 | 未能排除 |
        未能除外 | 未完全排除 | 不能绝对排除 | 有待排除 | 有待除外 | 有待明确 | 有待确诊 | 未确诊 |
        待确诊 | 待明确 | 待鉴别 | 待观察 | 需鉴别 | 需要排除 | 应排除 | 应除外 | 拟排除 | 拟除外 |
        不否认 | 疑是 | 疑似有 | 怀疑有 | 可能有 | 可能是 | 可能存在 | 或为 | 貌似 | 好像 | 像是 |
        可疑有 | 可疑为 | 高度怀疑 | 高度可疑 | 不完全除外 | 待除外诊断 | 尚不确定 | 似 | 待考 |
        鉴别 | 相鉴别 | 依据不足 | 证据不足 | 嫌疑 | differential | differentials |
        differential diagnoses | 鉴别诊断 | differential includes | differential diagnosis includes
    """,
    Cue.QUESTION: "?",
    Cue.ASSERTION: """

        not without | no absence of | no lack of | not free of | not negative for | yes |
        positive for | 不是没有 | 不是无 | 并非没有 | 并非无 | 并非未见 | 并非不存在 | 不无 |
        非无 | 现有 | 现见 | 目前可见 | there is | there are | there was | shows | show | showed |
        showing | shown | reveals | reveal | revealed | with | has | have | had | presence of |
        demonstrates | presents with | consistent with | indicating | indicates | indicative of |
        diagnosed with | diagnosis of | associated with | accompanied by | due to | secondary to |
        because of | presenting | remains | persistent | only | known | typical of | found |
        可见 | 见 | 伴 | 伴有 | 有 | 见有 | 合并 | 提示 | 显示 | 诊断为 | 呈 | 仅见 | 仍见 |
        仍可见 | 仍有 | 符合 | 发现 | 存在 | 另见 | 并见 | 查见 | 局部见 | 诊断
    """,
    Cue.ASSERTED: """
        not absent | is not absent | are not absent | not excluded by | positive | is positive |
        are positive |
        present | is present | are present | seen | noted | visible | observed | detected |
        identified | is seen | are seen | evident | confirmed | was seen | were seen | 阳性 |
        明显可见
    """,
    Cue.VERSUS: "vs | vs. | versus | v.s.",
    Cue.CONTRAST: """
        but | however | although | though | except | except for | apart from | aside from |
        other than | besides | whereas | while | yet | instead | nevertheless | despite | still |
        also | in addition | 但 | 但是 | 然而 | 除了 | 而 | 仅 | 却 | 惟 | 唯 | 另 | 同时 | 余 |
        其余
    """,
    Cue.AND: "and | & | as well as | plus | 及 | 和 | 与 | 以及 | 并 | + | 、 | 亦",
    Cue.OR: "or | / | 或 | and/or | 或者 | 以及任何",
    Cue.COMMA: ",",
    Cue.COLON: ": | =",
    Cue.PREPOSITION: """
        in | of | on | in the | of the | on the | within the | at | for the | affecting the |
        involving the
    """,
    Cue.AMOUNT: """
        a few | few | scattered | multiple | several | many | numerous | some | small | extensive |
        diffuse | occasional | single | isolated | large | old | new | acute | chronic | marked |
        slight | focal | tiny | 少许 | 少量 | 散在 | 多发 | 大量 | 较多 | 多处 | 个别 | 部分 |
        陈旧性 | 陈旧 | 广泛 | 大片 | 明显的 | 数个 | 一处 | 新鲜
    """,
    Cue.ADVICE: """
        recommend | recommends | recommended to | recommending | advise | advises | advised to |
        suggest review | suggest follow up | suggest further | suggest ffa | suggest oct |
        suggest referral | suggest visual field | suggest to | follow up | f/u | followup | refer |
        refer to | referred | referral | review in | review at | review after | please |
        should undergo | should be | return in | return to | recall in | rescreen | monitor |
        monitoring | monitor for | watch for | observe for | annual screening | routine screening |
        repeat | needs | need to | plan | plan: | screening for | screen for | to be screened for |
        suggest regular | educate | if | in case of | risk of | at risk of | risk for |
        at risk for | worried about | anxious about | counselled on | counseled on |
        counselled about | counseled about | counselled regarding | counseled regarding |
        warned of | warned about | may progress to | progress to | may lead to | can lead to |
        suggested to |
        clinical correlation | advice | advice: | recheck | re examine | treatment for | treat |
        建议 | 复查 | 随访 | 随诊 | 复诊 | 就诊 | 转诊 | 请结合 | 必要时 | 进一步 | 定期 | 完善 |
        如有 | 如出现 | 若有 | 若出现 | 注意 | 请 | 应行 | 需行 | 推荐 | 控制血糖 | 控制血压 | 嘱 |
        预防 | 防止 | 以免 | 避免 | 治疗 | 监测 | 择期 | 尽快 | 及时 | 风险
    """,
    Cue.ADVISED: """
        advised | recommended | is advised | is recommended | suggested | is suggested | required |
        is required | needed | is needed | indicated | is indicated | are advised |
        are recommended | warranted | is warranted | requested | scheduled | planned | to be done
    """,
    Cue.PROCEDURE: """
        ffa | oct | octa | icga | visual field | visual field test | fluorescein angiography |
        angiography | b scan | ultrasound | examination | treatment | injection | anti vegf |
        vitrectomy | laser treatment | test | testing | review | oct examination | management |
        造影 | 眼底荧光血管造影 | 荧光造影 | 视野 | 视野检查 | 检查
    """,
    Cue.SERVICE: """
        surgery | operation | extraction | repair | screening | clinic | service | programme |
        program | study | questionnaire | precautions | warning | warnings | warning signs |
        symptoms | counselling | counseling | 手术 | 手术治疗 | 摘除术 | 门诊 | 筛查门诊 | 筛查 |
        术后 | 复位术后 | 复位术 | 修补术后
    """,
    Cue.PURPOSE: """
        除外 | to exclude | to confirm | for further | to assess | to evaluate | 以明确 | 以排除 |
        以除外 | 明确 | 以便 | 明确有无 | 了解 | 排查
    """,
    Cue.HISTORY: """
        history of | h/o | hx/o | pmhx | phx | pohx | pohx of | oculr hx | ocular history |
        ocular history of | known history of | had | has had | past history | past history of |
        previous history of | previously | history | hx of | hx | medical history |
        prior history of | in the past | formerly | past medical history | presenting complaint |
        complains of | complaining of | clinical details | pmh | poh | past ocular history | 既往 |
        既往史 | 既往有 | 曾 | 曾有 | 曾患 | 曾因 | 病史 | 以往 | 过去 | 既往曾 | 既往行 |
        主诉 | 现病史
    """,
    Cue.FAMILY: """

        family history | family history of | family history: | positive family history of |
        strong family history of | fhx | fhx of | fh | fh of | f/h | f/h of | fam hx | fam hx of |
        family hx | family hx of |
        fohx | fohx of | family ocular history | family ocular history of | family eye history |
        fam history | family member | family members | mother |
        father | brother | brothers | sister | sisters | sibling | siblings | maternal |
        paternal | grandmother | grandfather | grandparent | grandparents | aunt | uncle |
        cousin | parent | parents | relative | relatives | son | daughter | no family history of |
        no fhx of | no fhx | no family history | denies family history of | 家族史 | 家族中 |
        母亲 | 父亲 | 其母 | 其父 | 父母 | 兄弟 | 姐妹 | 兄妹 | 姐姐 | 哥哥 | 弟弟 | 妹妹 | 祖父 |
        祖母 | 外祖母 | 外祖父 | 爷爷 | 奶奶 | 外公 | 外婆 | 家属 | 家人 | 亲属 | 儿子 | 女儿 |
        其兄 | 其姐 | 其弟 | 其妹
    """,
    Cue.HISTORY_NEXT: """
        previous | prior | prev | prev. | past | resolved previous | former | s/p | sp | status post
    """,
    Cue.HISTORY_LAST: """

        n/a | not assessed | 不详 | 未评估 | in the family | in family | runs in the family |
        runs in family | in her family | in his family | years ago | year ago | months ago | 史 |
        手术史 | 年前 | repaired | 病史多年
    """,
    Cue.HEADING: """
        impression: | impression : | imp: | imp : | diagnosis: | diagnosis : | dx: | dx : |
        conclusion: | conclusion : | summary: | summary : | comment: | comments: | assessment: |
        opinion: | final diagnosis: | overall: | result: | results: | 印象: | 诊断: | 初步诊断: |
        结论: | 诊断意见: | 诊断印象: | 提示: | 意见: | 小结: | 总结: | 印象 : | 诊断 : |
        诊断结果: | 检查结论: | 影像诊断:
    """,
    Cue.CUP: """
        c/d | c:d | c d ratio | c/d ratio | cdr | cup to disc ratio | cup/disc ratio |
        cup disc ratio | vcdr | vertical cup to disc ratio | vertical c/d | vertical cdr |
        cup to disc | cup/disc | vertical c/d ratio | 杯盘比 | 视杯视盘比 | 杯/盘 | 杯盘比值 |
        杯盘比例 | 盘沿杯盘比 | 垂直杯盘比 | 杯盘比c/d | 视杯/视盘 | c/d比 | c/d比值
    """,
    Cue.NORMAL: """
        normal | nomal | noraml | nornal | normla | noramal | wnl | within normal limits |
        within normal limit | unremarkable | nad | healthy | intact | normality |
        no apparent disease | unremarkable findings | normally | 正常 | 大致正常 | 基本正常 |
        无殊 | 无特殊 | 未见特殊 | 正常范围 | 未见显著改变
    """,
    Cue.ABNORMAL: """
        abnormality | abnormalities | abnomality | abnornality | abnormalty | abnormalites |
        abnormal | abnormal findings | abnormal finding | lesion | lesions | pathology |
        pathological changes | pathologic changes | abnormal changes | remarkable findings |
        remarkable | disease | diseases | focal lesions | fundus disease | retinal disease |
        retinal lesions | fundus lesions | retinal abnormality | retinal abnormalities |
        retinal pathology | fundus abnormality | fundus abnormalities | anomalies | anomaly |
        异常 | 异常改变 | 病变 | 病灶 | 异常病变 | 器质性病变 | 异常发现 | 病理改变 | 视网膜病变 |
        眼底病变 | 占位
    """,
    Cue.IGNORED: """
        no change | no changes | no significant change | no improvement | no increase |
        no progression | no interval change | no worsening | without change | not only |
        no further | not changed | unchanged | no difference | not gradable | no image | no doubt |
        no view | no photograph | no treatment | no image available | not photographed |
        could not be imaged | normal tension | normal iop | normal intraocular pressure |
        normal blood pressure | without treatment | non glaucomatous | no change in the |
        non contributory | with or without | not improved | not mydriatic | no mydriasis |
        non mydriatic | 无变化 |




        不仅 | 不但 | 不只 | 不仅有 | 不但有 |
         未见变化 | 无改变 | 无法 | 无赤光 |
        无晶体 | 无晶状体 | 无灌注 | 无血管区 | 无灌注区 | 无创 | 无图像 | 无痛 | 部分吸收 |
        闭合不良 | 未闭合 | 未封闭 | 未愈合 | 未复位 | 复位不良 | 未完全吸收 | 未吸收 | 未消退 |
        未完全消退 | 未消失 | not closed | failed to close | not resolved | not yet resolved |
        not fully resolved | not completely resolved | has not resolved | have not resolved |
        partially resolved | partly resolved | incompletely resolved | partially cleared |
        partly cleared | not cleared | not yet cleared | has not cleared | not reattached |
        partial resolution of | incomplete resolution of | no resolution of |
        无好转 | 无进展 | 未见好转 | 无加重 | 未治疗 | 未拍摄 | 无法拍照 | 眼压正常 | 血压正常 |
        视力正常 | 正常眼压 | 无散瞳 | 免散瞳 | 非散瞳 | 非接触 | a/v | av ratio | va | bcva |
        iop | 视力 | 眼压 | 动静脉比 | 动静脉比例 | 矫正视力
    """,
}


def _each(*parts: str) -> tuple[str, ...]:
    """Every phrase of one word of each part; words stand between "|"."""
    listed = (tuple(word.strip() for word in part.split("|")) for part in parts)
    return tuple(" ".join(filter(None, words)) for words in itertools.product(*listed))


def _each_zh(*parts: str) -> tuple[str, ...]:
    return tuple(phrase.replace(" ", "") for phrase in _each(*parts))


_HOW_FAR = "| completely | entirely | fully | definitively | definitely | totally | absolutely"
_HOW_FAR_ZH = "| 完全 | 绝对 | 彻底 | 明确"
_NOW = "| now | since | now completely | completely | fully | entirely | totally"
#: Phrases that are put together of parts, by their cue.
PHRASES: dict[Cue, tuple[str, ...]] = {
    Cue.NEGATION: (
        *_each_zh(
            "未 | 尚未 | 并未 | 暂未 | 均未 | 仍未 | 从未",
            """
            并发 | 伴发 | 发生 | 形成 | 达 | 达到 | 进展为 | 进展至 | 进展到 | 发展为 | 发展至 |
            发展到 | 复发 | 再发 | 再 | 再见 | 继发 |
            引起 | 导致 | 转为 | 见 | 发现 | 出现 | 查见 | 检出
            """,
            "| 明显 | 明确 | 确切 | 显著 | 典型",
        ),
        *_each_zh("可 | 已 | 已经 | 基本 | 基本可 | 可以 | 可基本", "| 完全", "排除 | 除外"),
    ),
    Cue.NEGATED: (
        *_each(
            "| has | have | had | is | are | was | were", _NOW, "resolved | cleared | disappeared"
        ),
        *_each(
            "has | have | had",
            f"{_NOW} | now been | since been | been",
            "been ruled out | been excluded | ruled out | excluded",
        ),
        *_each_zh("未 | 未再 | 未见", "复发 | 再发"),
        *_each_zh("可 | 已 | 已经 | 基本 | 基本可 | 可以 | 被 | 予", "| 完全", "排除 | 除外"),
    ),
    Cue.DOUBT: (
        *_each("may | might | could | would", "be | have | represent | indicate | reflect | show"),
        *_each(
            """
            cannot | can not | can't | could not | couldn't | unable to | not able to |
            impossible to | not possible to | difficult to | hard to | does not | doesn't |
            do not | did not | is not possible to | was not possible to | is not able to |
            is unable to | are unable to | are not able to | was unable to | not safe to
            """,
            _HOW_FAR,
            "exclude | rule out | r/o | dismiss | discount",
        ),
        *_each(
            """
            cannot be | can not be | can't be | could not be | couldn't be | may not be | not |
            not yet | not been | has not been | have not been | hasn't been | haven't been |
            has not yet been | have not yet been | never | is not | are not | was not | were not |
            is not yet | are not yet | should not be | must not be
            """,
            _HOW_FAR,
            "excluded | ruled out | dismissed | discounted",
        ),
        *_each_zh(
            """
            不 | 不能 | 不可 | 无法 | 难 | 难以 | 未 | 未能 | 尚未 | 尚不 | 尚不能 | 尚无法 | 暂不 |
            暂不能 | 暂无法 | 仍不能 | 目前不能 | 并不能 | 不易 | 未予
            """,
            _HOW_FAR_ZH,
            "排除 | 除外",
        ),
    ),
}

SIDES: dict[str, tuple[str, ...]] = {
    LEFT: tuple(pair.left for pair in EYES),
    RIGHT: tuple(pair.right for pair in EYES),
    BOTH: tuple(both_eyes()),
    OTHER: OTHER_EYE,
}
_NOTHING = ("无", "未见", "没有", "未有")
_CLEARLY = ("", "明显", "显著", "明确", "确切")
_OTHERWISE = ("变化", "进展", "加重", "好转", "增多", "增加", "减少", "扩大", "改善", "恶化")
#: Statements that nothing changed: they deny nothing that was there.
UNCHANGED = (
    *map("".join, itertools.product(_NOTHING, _CLEARLY, _OTHERWISE)),
    *("无改变", "无明显改变", "无显著改变", "没有改变", "没有明显改变", "较前无改变"),
)

#: Sides whose letters are words too: they count in capitals only.
SIDES_IN_CAPITALS: dict[str, tuple[str, ...]] = {
    LEFT: tuple(pair.left for pair in IN_CAPITALS),
    RIGHT: tuple(pair.right for pair in IN_CAPITALS),
    BOTH: BOTH_IN_CAPITALS,
}
BARE_SIDES: dict[str, tuple[str, ...]] = {
    LEFT: tuple(pair.left for pair in BARE),
    RIGHT: tuple(pair.right for pair in BARE),
}

GRADE_WORDS: dict[str, str] = {
    "mild": "mild | minimal | early | mildly | 轻度 | 轻微 | 早期 | 轻型",
    "moderate": """
        moderate | moderately | mod | mod. | mild to moderate | mild/moderate | mild to mod |
        mild mod | mild to mod. | 中度 | 轻中度 | 轻至中度 |
        轻到中度
    """,
    "severe": """
        severe | very severe | sev | sev. | v severe | mod to severe | mod/severe | severely |
        advanced | moderate to severe | moderate/severe |
        moderately severe | 重度 | 中重度 | 严重 | 中至重度 | 极重度 | 中到重度
    """,
}

#: Stages by the condition that they make of a more general one.
STAGES: dict[str, str] = {
    "npdr": """
        nonproliferative | non proliferative | 非增殖期 | 非增生期 | 非增殖性 | 非增生性 | 非增殖 |
        背景期
    """,
    "pdr": "proliferative | 增殖期 | 增生期 | 增殖性 | 增生性",
    "dry_amd": "dry type | dry form | 干性 | 萎缩型 | 萎缩性",
    "wet_amd": "wet type | wet form | exudative type | 湿性 | 渗出型",
}

ANATOMY: dict[str, str] = {
    DISC: """
        disc | discs | optic disc | optic discs | optic nerve | optic nerves | optic nerve head |
        optic nerve heads | onh | neuroretinal rim | 视盘 | 视乳头 | 视神经 | 视神经乳头 | 盘沿
    """,
    MACULA: """
        macula | maculae | macular | macular area | macular region | fovea | foveal | 黄斑 |
        黄斑区 | 黄斑部 | 中心凹 | 黄班
    """,
    VESSELS: """
        vessel | vessels | vesels | vasculature | arteries | veins | retinal vessels |
        blood vessels | arterioles | venules | vascular | 血管 | 视网膜血管 | 动静脉 | 动脉 | 静脉
    """,
    FUNDUS: """
        fundus | fundi | retina | retinae | retinas | eye | eyes | ocular fundus | posterior pole |
        photograph | photographs | 眼底 | 视网膜 | 后极部 | 后极
    """,
}

#: Statements that a part is normal.
NORMAL_PARTS: dict[str, str] = {
    DISC: """
        disc margin clear | disc margins clear | disc margin sharp | disc margins sharp |
        sharp disc margin | clear disc margin | disc margins are clear | disc margin is clear |
        pink disc | disc pink | pink and sharp disc | disc margins are sharp |
        disc margin is sharp | healthy disc | disc well defined | well defined disc |
        disc is pink | disc flat | 视盘边界清 | 视盘边界清楚 | 视盘边界清晰 | 视乳头边界清 |
        视盘色淡红 | 视盘界清 | 视乳头边界清楚 | 视盘边清 | 视盘边界尚清 | 视盘色红润 |
        视乳头边界清晰 | 视盘色泽正常 | 盘沿完整
    """,
    MACULA: """
        macula flat | macula is flat | flat macula | foveal reflex present |
        foveal reflex is present | foveal reflex visible | foveal reflex seen |
        foveal reflex intact | macular reflex present | good foveal reflex | bright foveal reflex |
        normal foveal reflex | foveal reflex normal | 黄斑中心凹反光可见 | 中心凹反光可见 |
        中心凹反光存在 | 中心凹光反射可见 | 中心凹光反射存在 | 黄斑平伏 | 黄斑区平伏 | 中光可见 |
        中心凹反光清晰 | 黄斑中心反光可见 | 黄斑区反光可见 | 黄斑反光可见 | 黄斑中心凹反光存在 |
        中心凹反光好 | 中心反光存在
    """,
    VESSELS: """
        vessels of normal calibre | normal vessel calibre | normal course and calibre |
        vessels of normal course | a/v about 2:3 | a/v 2:3 | a/v ratio 2:3 | 血管走行正常 |
        血管走行可 | 动静脉比例正常 | 血管形态正常 | a:v=2:3 | a/v=2:3 | a/v约2:3 | 动静脉比2:3 |
        血管走形正常 | 血管走行自然 | 血管走行未见异常 | 动静脉比例约2:3 | 动静脉管径比正常
    """,
}

_FILLERS = (
    "a acute all an any apparent appear appeared appears are aspect at basically be been "
    "clear clinically color colour completely definite entirely essentially evident exam "
    "examination finding findings fundoscopy generally gross grossly image images in is it "
    "limit limits look looks major obvious of on other otherwise overall patient photograph "
    "photographs picture remarkable report scan seem significant that the this to was were "
    "within "
)
#: Words of a statement of normality that say nothing more.
FILLERS = frozenset(_FILLERS.split())
FILLERS_ZH = frozenset(
    "明显确切的均余其大致基本亦也等各处所呈检查照相片彩示者之著可无及未它均目前现体像"
)
