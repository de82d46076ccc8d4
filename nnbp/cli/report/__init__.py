"""The pages that people look at: each turns a result of the library into a file or a picture."""
