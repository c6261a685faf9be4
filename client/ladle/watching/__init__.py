"""Averages what is in a folder again and again while a training writes into it: the parts of `ladle watch-folder`."""
