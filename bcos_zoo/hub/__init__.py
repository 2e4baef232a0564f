"""Networks in folders and on the Hugging Face Hub, as timm and bcos_zoo load them, with their cards."""
