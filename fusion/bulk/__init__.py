"""Many inputs: one pipeline over the rows of a table or the files of a folder."""
