"""The generated world of the tiny study: facts, chats and exams from one seed."""
