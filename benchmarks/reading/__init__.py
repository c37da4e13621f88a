"""The input that each role of plan-execute-review reads over a long document, against one call over all of it."""
