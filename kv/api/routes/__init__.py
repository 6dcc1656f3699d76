"""The handlers of the REST face, thin: translate, ask the regime, translate back."""
