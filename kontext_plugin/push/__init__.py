"""A push, in the order in which it runs.

options, prepare (the directory's tree and the image under the tag), parent (which image to build
on), plan, partition (into layers and parts), stage (write the layers), publish (under all tags),
results; messages has the words. commands/push.py tells the story. May import everything but
commands.
"""
