"""Conversations in the form of LLaVA: LLaVA-Instruct-ru with a local COCO folder, and any ``conversations``."""

from mlxtune.tasks.conversation import CONVERSATION_METRICS, ConversationTask
from mlxtune.tasks.fields import Columns

LLAVA = ConversationTask(
    name="llava",
    description="conversations [{from, value}] with <image> in the text (LLaVA-Instruct-ru); the last answer is the target",
    metrics=CONVERSATION_METRICS,
    columns=Columns(image=("image", "images"), question=("conversations",), target=()),
    meta=("type",),
)
