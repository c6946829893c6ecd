"""The Images interface of OpenAI, over the native jobs."""
