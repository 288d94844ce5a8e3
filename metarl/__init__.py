"""metarl"""
