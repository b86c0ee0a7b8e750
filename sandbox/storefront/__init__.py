"""The upgrade button of a tutorial: a small web shop that knows the billing service through its public contract alone.

Read it as an example of a caller: `billing.py` calls the service and reads its errors, `words.py` puts the answers into
words for people, `pages.py` is the pages. Of the rest of this repository it uses the generated stubs and nothing else.
"""
