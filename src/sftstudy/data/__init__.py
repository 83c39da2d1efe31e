"""From files of chats to tokenised, mixed rows."""
