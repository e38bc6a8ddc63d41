# The words of a file: `gleitzeit batch docs --pattern '*.md' --script examples/count.py`.
# `batch` gives the path as `file_path`; the value of the last line is the result.
with open(file_path, encoding="utf-8") as file:
    words = file.read().split()
len(words)
