"""Conversations in the form of chat APIs and of Hugging Face and mlx-vlm data: ``messages``, with an ``images`` column or not."""

from mlxtune.tasks.conversation import CONVERSATION_METRICS, ConversationTask
from mlxtune.tasks.fields import Columns

MESSAGES = ConversationTask(
    name="messages",
    description="messages [{role, content}], content as text or as text and image parts; the last answer is the target",
    metrics=CONVERSATION_METRICS,
    columns=Columns(image=("images", "image"), question=("messages",), target=()),
    meta=("type", "kind", "category", "source"),
)
