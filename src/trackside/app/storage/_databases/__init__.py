"""The two databases behind one face: addresses, connections, what a writer and readers ask of them, hints of commits."""
