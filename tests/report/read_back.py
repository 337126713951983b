"""A report, read back: a paper as it is shown, and a page with an HTML parser, never with a regular expression over the text."""

from html.parser import HTMLParser

from common.report.papers import read_papers


def one_paper(root, key="demo"):
    return next(paper for paper in read_papers(root) if paper.key == key)


class Parsed(HTMLParser):
    """Every element as (tag, attributes), the text of each <td>, and all text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag=None, css=None):
        return [
            a
            for t, a in self.elements
            if tag in (None, t) and (css is None or css in (a.get("class") or "").split())
        ]
